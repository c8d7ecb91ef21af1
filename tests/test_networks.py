"""Who may call, whose address counts, how many connections one caller may have, and whose clock is wrong."""

import asyncio
import contextlib
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import ClockWatch
from gateway.config import load
from gateway.errors import ConfigError, Refused
from gateway.metrics import Metrics
from gateway.networks import Networks
from tests.callback_port import COMMAND, callback_port, signed

TOKEN = "a-token-of-the-console"
PROXIES = ["10.0.0.0/8", "fd00::/8"]
ALLOWED = ["192.0.2.0/24", "2001:db8::/32"]
BOTH = Networks.of(ALLOWED, PROXIES)


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        ("2001:db8::1", [], "2001:db8::1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("::ffff:10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7, 10.9.9.9,10.1.1.1"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7", "10.1.1.1"], "192.0.2.7"),
        ("10.0.0.1", ["203.0.113.9, nonsense, 192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["192.0.2.7:4711"], "192.0.2.7"),
        ("fd00::1", ["[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.0.0.1", ["[2001:db8::5], , "], "2001:db8::5"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),
        ("2001:db8::1%eth0", [], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::5%<any text>"], "2001:db8::5"),
    ],
)
def test_the_callers_address(peer, forwarded, caller):
    """It is the peer's, or the right-most one that no trusted proxy has; the caller's own words do not count."""
    assert BOTH.caller(peer, forwarded) == caller


@pytest.mark.parametrize(
    ("peer", "forwarded"),
    [
        ("203.0.113.9", []),
        ("203.0.113.9", ["192.0.2.7"]),
        ("10.0.0.1", []),
        ("10.0.0.1", ["10.0.0.2"]),
        ("10.0.0.1", ["192.0.2.7, 203.0.113.9"]),
        ("10.0.0.1", ["192.0.2.7, nonsense"]),
        ("10.0.0.1", ["192.0.2.7, unknown, 10.0.0.2"]),
        ("10.0.0.1", ["192.0.2.07"]),
        ("10.0.0.1", ["[]:1"]),
        ("", []),
    ],
)
def test_who_is_refused(peer, forwarded):
    """Outside the networks, or behind a proxy that names no address."""
    with pytest.raises(Refused, match="forbidden_network"):
        BOTH.caller(peer, forwarded)


def test_without_networks_everybody_may_come():
    """The forwarded address counts behind a trusted proxy only; garbage from one is refused all the same."""
    assert Networks.of([], []).caller("::ffff:1.2.3.4", ["nonsense"]) == "1.2.3.4"
    assert Networks.of([], PROXIES).caller("10.0.0.1", ["1.2.3.4"]) == "1.2.3.4"
    assert Networks.of([], PROXIES).caller("10.0.0.1", []) == "10.0.0.1"
    with pytest.raises(Refused):
        Networks.of([], PROXIES).caller("10.0.0.1", ["nonsense"])


def test_a_mapped_network_is_one_of_ipv4():
    """Written either way, it holds the same callers."""
    assert Networks.of(["::ffff:192.0.2.0/120"], []).caller("192.0.2.7") == "192.0.2.7"


@given(st.text(max_size=30), st.lists(st.text(max_size=60), max_size=3))
def test_nothing_but_a_refusal_comes_of_nonsense(peer, forwarded):
    """Whatever stands in the header: an address that is allowed, or Refused."""
    for address in (peer, "10.0.0.1"):
        with contextlib.suppress(Refused):
            assert BOTH.caller(address, forwarded).startswith(("192.0.2.", "2001:db8:"))


@pytest.mark.parametrize("key", ["allow_networks", "trusted_proxies"])
@pytest.mark.parametrize("network", ["nonsense", "10.0.0.1/8", "10.0.0.0/33", "''"])
def test_a_bad_network_is_a_config_error(tmp_path, key, network):
    """Found at start, with its key."""
    path = tmp_path / "config.yaml"
    path.write_text(f"listen: {{{key}: [{network}]}}")

    with pytest.raises(ConfigError, match=rf"listen\.{key}\.0"):
        load(path, {})


async def test_a_forbidden_caller_gets_403_for_everything(tmp_path):
    """Also for probes, for what is signed, for wrong paths; nothing is stored."""
    async with callback_port(tmp_path, {"allow_networks": ["192.0.2.0/24"]}) as port:
        assert await port.post() == (403, "forbidden")
        assert await port.post("", body=b"") == (403, "forbidden")
        assert await port.post("SdkAppid=9&SdkAppid=9") == (403, "forbidden")
        assert await port.peers() == []
        assert port.value("gateway_requests_refused_total", reason="forbidden_network") == 3


async def test_the_forwarded_address_is_stored(tmp_path):
    """Behind a proxy the journal has the caller's address, not the proxy's."""
    listen = {"allow_networks": ["192.0.2.0/24"], "trusted_proxies": ["127.0.0.0/8"]}
    async with callback_port(tmp_path, listen) as port:
        assert (await port.post(headers={"X-Forwarded-For": "9.9.9.9, 192.0.2.7"}))[0] == 200
        assert (await port.post(headers={"X-Forwarded-For": "nonsense"})) == (403, "forbidden")
        assert (await port.post(headers={"X-Forwarded-For": "192.0.2.7, 9.9.9.9"})) == (403, "forbidden")
        assert await port.peers() == ["192.0.2.7"]


async def is_closed(reader):
    try:
        async with asyncio.timeout(0.3):
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_one_peer_has_no_more_connections_than_it_may(tmp_path):
    """Those beyond are closed and counted; a place that gets free can be taken."""
    async with callback_port(tmp_path, {"max_connections_per_peer": 2}) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(3)]

        assert [await is_closed(reader) for reader, _ in opened] == [False, False, True]
        assert port.value("gateway_connections_refused_total") == 1

        for _, writer in opened:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await port.post())[0] == 200


async def test_trusted_proxies_have_as_many_connections_as_they_open(tmp_path):
    """All callers come through them."""
    listen = {"max_connections_per_peer": 1, "trusted_proxies": ["127.0.0.1/32"]}
    async with callback_port(tmp_path, listen) as port:
        opened = [await asyncio.open_connection("127.0.0.1", port.port) for _ in range(3)]

        assert not any([await is_closed(reader) for reader, _ in opened])

        for _, writer in opened:
            writer.close()


async def test_the_skew_of_the_last_matching_sign_is_a_metric(tmp_path):
    """Fresh or stale; a Sign that does not match says nothing about clocks."""
    async with callback_port(tmp_path, apps={"1": {"tokens": [TOKEN]}}) as port:
        assert (await port.post(signed(TOKEN, -20)))[0] == 200
        assert port.value("gateway_clock_skew_seconds", app="1") in (-20, -21)
        assert (await port.post(signed(TOKEN, 3600)))[0] == 401
        assert port.value("gateway_clock_skew_seconds", app="1") in (3600, 3599)
        assert (await port.post(signed("a-strangers-own-token", -9000)))[0] == 401
        assert port.value("gateway_clock_skew_seconds", app="1") in (3600, 3599)
        without_command = signed(TOKEN, -100).replace(f"&{COMMAND}", "")
        assert (await port.post(without_command))[0] == 401
        assert port.value("gateway_clock_skew_seconds", app="1") in (-100, -101)


def test_many_stale_signatures_are_a_loud_error_once_a_minute(caplog):
    """More than half of the last 20; the words say whose clock it may be."""
    now_s = [0.0]
    metrics = Metrics()
    watch = ClockWatch(metrics.clock_skew, 60, lambda: now_s[0])

    def take(count, skew_s):
        for _ in range(count):
            watch.signed({"sdkappid": "1", "requesttime": str(1000 + skew_s)}, 1_000_000)

    with caplog.at_level(logging.ERROR):
        take(15, 0)
        take(10, -100)
        assert not caplog.records
        take(5, -100)
        assert len(caplog.records) == 1
        assert "100 s behind this machine's clock" in caplog.text
        assert "time service" in caplog.text
        now_s[0] = 61.0
        take(1, 100)
        assert "100 s ahead of" in caplog.text
        caplog.clear()
        now_s[0] = 200.0
        take(10, 0)
        assert not caplog.records
