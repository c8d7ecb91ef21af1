"""The faults that operators meet, in a real gateway: the console alone names each, and what to do."""

import hashlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import Gateway, body_of, eventually
from tests.services import RabbitMQ

TOKEN = "a-token-long-enough"
QUERY = "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Gateway] = []

    def new(**sections: Any) -> Gateway:
        made.append(Gateway(tmp_path, **sections))
        return made[-1]

    yield new
    for gateway in made:
        gateway.close()


def post(gateway: Gateway, query: str = QUERY) -> int:
    url = f"http://127.0.0.1:{gateway.port}/callback?{query}"
    try:
        with urllib.request.urlopen(url, json.dumps(body_of(1)).encode(), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def causes(gateway: Gateway) -> list[tuple[str, str]]:
    """Return level and words of what the overview says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/api/overview", timeout=10) as answer:
        return [(one["level"], one["text"]) for one in json.load(answer)["causes"]]


def is_named(gateway: Gateway, level: str, *words: str) -> bool:
    return any(found == level and all(word in text for word in words) for found, text in causes(gateway))


def test_a_broker_that_is_away(make: Any, rabbitmq: RabbitMQ, amqp_url: str) -> None:
    """Amber, with how many wait; well again when the broker is back."""
    gateway = make(broker={"url": amqp_url, "reconnect_max_s": 0.5})
    gateway.start()
    assert post(gateway) == 200
    rabbitmq.stop()
    assert post(gateway) == 200
    eventually(
        lambda: is_named(gateway, "amber", "The broker takes no events", "wait in the journal"), "named"
    )
    rabbitmq.start()

    eventually(lambda: not is_named(gateway, "amber", "The broker takes no events"), "well again")


def test_a_sink_that_refuses(make: Any) -> None:
    """Amber, with the sink's name and why."""
    gateway = make(sinks={"crm": {"kind": "sqlite", "path": "no/such/folder/x.db"}})
    (gateway.folder / "no").write_text("a file where a folder should be")
    gateway.start()
    assert post(gateway) == 200

    eventually(lambda: is_named(gateway, "amber", "Sink crm"), "named")


def test_a_full_journal(make: Any) -> None:
    """Red, and the refusals with what to do."""
    gateway = make(journal={"min_free_mb": 10**9})
    gateway.start()
    assert post(gateway) == 503

    eventually(lambda: is_named(gateway, "red", "The journal is full"), "named")


@pytest.mark.parametrize("reason", ["no_signature", "bad_signature", "stale_signature"])
def test_a_wrong_token(make: Any, reason: str) -> None:
    """Red, because nothing is taken; the reason, and what to compare."""
    gateway = make(apps={"1400000000": {"tokens": [TOKEN]}})
    gateway.start()
    eventually(lambda: causes(gateway), "the history has begun")
    token, time_s = ("another", int(time.time())) if reason == "bad_signature" else (TOKEN, 1)
    sign = hashlib.sha256(f"{token}{time_s}".encode()).hexdigest()
    signed = "" if reason == "no_signature" else f"&Sign={sign}&RequestTime={time_s}"
    assert post(gateway, QUERY + signed) == 401

    eventually(lambda: is_named(gateway, "red", f"({reason})"), "named")


def test_an_app_that_sends_nothing(make: Any) -> None:
    """Amber, with its id."""
    gateway = make()
    gateway.start()

    eventually(
        lambda: is_named(gateway, "amber", "App 1400000000 has sent no callback since the start"), "named"
    )
