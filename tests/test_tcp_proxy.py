"""The proxy that other tests trust: each way to misbehave is what it says, seen from both ends."""

import asyncio
import socket
import time

import pytest

from tests.services.processes import free_ports
from tests.tcp_proxy import TcpProxy


class Ends:
    """A server that collects what it is sent and remembers its connections, behind a proxy."""

    def __init__(self):
        self.accepted = asyncio.Queue()
        self.writers = []

    async def serve(self, reader, writer):
        self.writers.append(writer)
        self.accepted.put_nowait((reader, writer))

    async def connect(self, proxy):
        """Return ((reader, writer) of the client, (reader, writer) of the server)."""
        client = await asyncio.open_connection("127.0.0.1", proxy.port)
        self.writers.append(client[1])
        return client, await asyncio.wait_for(self.accepted.get(), 5)


@pytest.fixture
async def ends():
    ends = Ends()
    server = await asyncio.start_server(ends.serve, "127.0.0.1", 0)
    with TcpProxy(server.sockets[0].getsockname()[1]) as proxy:
        ends.proxy = proxy
        yield ends
    server.close()
    for writer in ends.writers:
        writer.close()


async def arrives(reader, size=1, within_s=5):
    return await asyncio.wait_for(reader.readexactly(size), within_s)


async def is_silent(reader, for_s=0.2):
    try:
        await asyncio.wait_for(reader.read(1), for_s)
    except TimeoutError:
        return True
    return False


async def test_everything_passes_in_both_directions(ends):
    """A megabyte each way, byte by byte the same, and the end of the stream too."""
    (reader, writer), (server_reader, server_writer) = await ends.connect(ends.proxy)
    content = bytes(range(256)) * 4096
    writer.write(content)
    writer.write_eof()
    server_writer.write(content[::-1])
    server_writer.write_eof()

    assert await asyncio.wait_for(server_reader.read(), 10) == content
    assert await asyncio.wait_for(reader.read(), 10) == content[::-1]


@pytest.mark.parametrize("direction", ["up", "down", "both"])
async def test_a_stalled_direction_holds_its_bytes_until_it_flows(ends, direction):
    """The other direction goes on, and nothing that was held is lost."""
    (reader, writer), (server_reader, server_writer) = await ends.connect(ends.proxy)
    ends.proxy.stall(direction)
    writer.write(b"u")
    server_writer.write(b"d")
    for name, there in (("up", server_reader), ("down", reader)):
        if direction in (name, "both"):
            assert await is_silent(there)
    ends.proxy.flow()

    assert await arrives(server_reader) == b"u"
    assert await arrives(reader) == b"d"


async def test_a_cut_resets_both_ends_and_new_connections_work(ends):
    """What a fire wall or a pulled plug with a fast router does."""
    (reader, _writer), (server_reader, _) = await ends.connect(ends.proxy)
    ends.proxy.cut()

    for one in (reader, server_reader):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(one.read(1), 5)
    (_, other), (again, _) = await ends.connect(ends.proxy)
    other.write(b"x")
    assert await arrives(again) == b"x"


async def test_refused_until_it_flows_again_on_the_same_port(ends):
    """A service that is not there."""
    ends.proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", ends.proxy.port)
    ends.proxy.flow()

    (_, _writer), _ = await ends.connect(ends.proxy)


async def test_half_open_ends_the_client_and_leaves_the_server_in_the_dark(ends):
    """A client that lost its power: the server waits."""
    (reader, _writer), (server_reader, server_writer) = await ends.connect(ends.proxy)
    ends.proxy.half_open()

    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 5)
    server_writer.write(b"hello?")
    assert await is_silent(server_reader)


async def test_a_black_hole_swallows_what_stands_and_takes_new_connections(ends):
    """A fire wall that has forgotten them: both ends wait."""
    (reader, writer), (server_reader, server_writer) = await ends.connect(ends.proxy)
    ends.proxy.black_hole()
    writer.write(b"x")
    server_writer.write(b"x")

    assert await is_silent(reader)
    assert await is_silent(server_reader)
    (_, other), (again, _) = await ends.connect(ends.proxy)
    other.write(b"y")
    assert await arrives(again) == b"y"


async def test_mute_accepts_and_says_nothing(ends):
    """A node that hangs, or a load balancer in front of none: the connection stands, and that is all."""
    (_, writer), (server_reader, _) = await ends.connect(ends.proxy)
    ends.proxy.mute()
    reader, silent = await asyncio.open_connection("127.0.0.1", ends.proxy.port)
    silent.write(b"anybody?")
    writer.write(b"x")

    assert await is_silent(reader)
    assert ends.accepted.empty()
    assert await arrives(server_reader) == b"x", "those that stand go on"
    silent.close()


async def test_slow_passes_so_many_bytes_a_second(ends):
    """Never faster; how much slower the machine decides."""
    (_, writer), (server_reader, _) = await ends.connect(ends.proxy)
    ends.proxy.slow(10_000)
    began_s = time.monotonic()
    writer.write(bytes(5_000))
    await arrives(server_reader, 5_000, 20)

    assert time.monotonic() - began_s >= 0.4


async def test_a_server_that_is_away_resets_the_client():
    """As if the client had connected to it directly, as far as TCP allows."""

    async def meet(port):
        with socket.socket() as client:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_recv(client, 1)

    # Why both in one: the reset may come before connecting has ended, or after.
    with TcpProxy(*free_ports(1)) as proxy, pytest.raises(ConnectionResetError):
        await asyncio.wait_for(meet(proxy.port), 5)


def test_through_keeps_everything_but_the_place():
    """Login, virtual host and options stay."""
    with TcpProxy(1) as proxy:
        url = proxy.through("amqp://guest:gu%40st@10.0.0.1:5672/v%2Fh?heartbeat=3")

        assert url == f"amqp://guest:gu%40st@127.0.0.1:{proxy.port}/v%2Fh?heartbeat=3"
