"""Opening ports: faults in words, limits of connections and of open files."""

import asyncio
import resource

import pytest
from aiohttp import web

from gateway.errors import ConfigError
from gateway.ports import limit_connections, listen_on, max_handshakes, room_for_connections


class Limits:
    """Stands in for the process's limit of open files."""

    def __init__(self, patch, soft, hard, refuses=False):
        self.now = (soft, hard)
        self.refuses = refuses
        patch.setattr(resource, "getrlimit", lambda kind: self.now)
        patch.setattr(resource, "setrlimit", self.set)

    def set(self, kind, limits):
        assert kind == resource.RLIMIT_NOFILE
        if self.refuses:
            raise ValueError("not permitted")
        self.now = limits


def test_the_soft_limit_is_raised_to_the_hard_one(monkeypatch, caplog):
    """Debian's soft limit of 1,024 would hold fewer connections than listen.max_connections."""
    limits = Limits(monkeypatch, 1024, 65_536)

    assert room_for_connections(4096) == 4096
    assert limits.now == (65_536, 65_536)
    assert not caplog.records


@pytest.mark.parametrize("refuses", [False, True])
def test_no_more_connections_than_files_are_let_in(monkeypatch, caplog, refuses):
    """Files for journal, broker and sinks stay free; the operator is told which limit it is."""
    Limits(monkeypatch, 1024, 65_536 if refuses else 1024, refuses)

    assert room_for_connections(4096) == 768
    assert "Only 768 connections fit the limit of open files (1024)" in caplog.text


def test_handshakes_fit_beside_connections(monkeypatch):
    """Both together stay below the limit of open files."""
    Limits(monkeypatch, 1024, 1024)
    most = room_for_connections(4096, tls=True)

    assert most + max_handshakes(most) <= 768
    assert most > 600


def test_without_a_limit_the_configuration_decides(monkeypatch):
    """Unlimited is no number to count with."""
    Limits(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    assert room_for_connections(4096) == 4096


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
