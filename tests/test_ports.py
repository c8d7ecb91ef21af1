"""Opening ports: faults in words, and a limit of connections."""

import asyncio

import pytest
from aiohttp import web

from gateway.errors import ConfigError
from gateway.ports import limit_connections, listen_on


@pytest.fixture
async def runner():
    """Return a runner of an empty application."""
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    yield runner
    await runner.cleanup()


async def test_a_host_that_is_no_name_is_an_error_in_words(runner):
    """A label of more than 63 characters fails before the resolver is asked."""
    with pytest.raises(ConfigError, match=r"listen\.port: can't listen"):
        await listen_on(runner, "a" * 70, 0, "listen.port")


async def test_connections_beyond_the_limit_are_closed(runner):
    """The first ones stay, the next one is closed without an answer."""
    limit_connections(runner, 2)
    await listen_on(runner, "127.0.0.1", 0, "admin.port")
    port = runner.addresses[0][1]
    first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    reader, late = await asyncio.open_connection("127.0.0.1", port)

    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with asyncio.timeout(5):
            await reader.readexactly(1)
    first[0][1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 404 " in await first[0][0].readline()
    for writer in (late, *(one[1] for one in first)):
        writer.close()
