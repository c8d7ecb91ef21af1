"""Clients of a public port as one would not wish them: ``bad_clients.py KIND PORT COUNT``; until it is killed."""

from __future__ import annotations

import asyncio
import random
import resource
import sys

BODY = b'{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"@TGS#1","ExitMemberList":[]}'
HEAD = (
    b"POST /callback?SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit HTTP/1.1\r\n"
    b"Host: x\r\nContent-Length: LENGTH\r\n\r\n"
)
# Why one byte more than ever comes: a whole request would be stored, and no ledger knows of it.
HEAD = HEAD.replace(b"LENGTH", str(len(BODY) + 1).encode())


async def hang_up(port: int) -> None:
    """Send part of a request and go away with a reset."""
    whole = HEAD + BODY
    while True:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(whole[: random.randrange(1, len(whole))])
        await asyncio.sleep(random.random() * 0.02)
        writer.transport.abort()


async def half_body(port: int) -> None:
    """Send a head and half a body, and wait."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + BODY[:40])
        await reader.read()
        writer.close()


async def idle(port: int) -> None:
    """Connect and say nothing."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.read()
        writer.close()


async def drip(port: int) -> None:
    """Send one byte a second."""
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        closed = asyncio.ensure_future(reader.read())
        for at in range(len(HEAD)):
            writer.write(HEAD[at : at + 1])
            done, _ = await asyncio.wait((closed,), timeout=1.0)
            if done:
                break
        closed.cancel()
        writer.close()


async def main(kind: str, port: int, count: int) -> None:
    act = {"hang-up": hang_up, "half-body": half_body, "idle": idle, "drip": drip}[kind]

    async def again(number: int) -> None:
        await asyncio.sleep(number / 1000)
        while True:
            try:
                await act(port)
            except OSError:
                await asyncio.sleep(0.1)

    await asyncio.gather(*(again(number) for number in range(count)))


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
