"""The line to the service manager: ready, alive, stopping; and the environment that says where it listens."""

import os
import socket

import pytest

from gateway.config import ServiceManager
from gateway.notify import Notify
from tests.gateway_process import Gateway


@pytest.fixture
def manager(tmp_path):
    """A socket as systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def test_a_process_says_that_it_is_ready_alive_and_stops(manager, tmp_path, monkeypatch):
    """systemd hears READY once callbacks are taken, WATCHDOG while the loop turns, and STOPPING after SIGTERM."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    gateway = Gateway(tmp_path / "gateway")
    try:
        process = gateway.start("serve", wait=False)
        first = manager.recv(100)
        assert gateway.sender().post(1), "it was ready"
        second = manager.recv(100)
        code = gateway.stop(process)
        manager.setblocking(False)
        last = [manager.recv(100)]
        while last[-1] != b"STOPPING=1":
            last.append(manager.recv(100))
    finally:
        gateway.close()

    assert (first, second, code) == (b"READY=1", b"WATCHDOG=1", 0)


def test_an_abstract_socket_is_found():
    """@name stands for a socket without a file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0im-gateway-test-{os.getpid()}")
        Notify(ServiceManager(f"@im-gateway-test-{os.getpid()}")).stopping()

        assert listening.recv(100) == b"STOPPING=1"


def test_a_manager_that_is_gone_disturbs_nothing(tmp_path):
    """Neither a missing socket nor none at all raises."""
    Notify(ServiceManager(str(tmp_path / "gone"))).stopping()
    Notify(ServiceManager()).stopping()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, ServiceManager("", 0.0)),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "60000000"}, ServiceManager("/run/x", 60.0)),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}, ServiceManager("", 1.0)),
        ({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, ServiceManager("", 0.0)),
        ({"WATCHDOG_USEC": "often"}, ServiceManager("", 0.0)),
    ],
)
def test_what_the_environment_says(environ, said):
    """A watchdog that is meant for another process, or is no number, is none."""
    assert ServiceManager.of(environ) == said
