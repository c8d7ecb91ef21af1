"""``gateway topology apply --prune``: bindings that the configuration names no more, on a real RabbitMQ."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.rabbitmq_world import admin_channel
from tests.services import RabbitMQ


class Folder:
    """A configuration with the sinks ``crm`` and ``all``, and commands run on it in this process."""

    def __init__(self, folder: Path, broker: dict[str, Any]) -> None:
        self.path = folder / "config.yaml"
        self.sections: dict[str, Any] = {
            "apps": {"14": {}},
            "broker": broker,
            "sinks": {
                "crm": {"kind": "jsonl", "path": str(folder / "crm"), "events": ["im.group.#", "im.user.#"]},
                "all": {"kind": "jsonl", "path": str(folder / "all")},
            },
        }

    def apply(self, *words: str, expect: int = 0) -> Result:
        return self.run("apply", *words, expect=expect)

    def run(self, *words: str, expect: int = 0) -> Result:
        self.path.write_text(yaml.safe_dump(self.sections))
        done = CliRunner().invoke(app, ["topology", *words, "--config", str(self.path)])
        assert done.exit_code == expect, done.output
        return done


@pytest.fixture
def folder(tmp_path: Path, amqp_url: str, rabbitmq: RabbitMQ) -> Folder:
    return Folder(tmp_path, {"url": amqp_url, "management_url": rabbitmq.management_url})


def bindings(rabbitmq: RabbitMQ, url: str) -> set[tuple[str, str]]:
    """Return (destination, key) of what is bound to the events exchange."""
    vhost = urlsplit(url).path[1:]
    found = json.loads(rabbitmq.manage("GET", f"/api/exchanges/{vhost}/im.events/bindings/source"))
    return {(one["destination"], one["routing_key"]) for one in found}


def test_what_is_named_no_more_is_removed(folder: Folder, rabbitmq: RabbitMQ, amqp_url: str) -> None:
    """Named first, removed with --yes; the others, other sinks' and foreign ones stay, and every queue."""
    folder.apply()
    folder.sections["sinks"]["crm"]["events"] = ["im.group.#", "im.room.#"]
    del folder.sections["sinks"]["all"]

    async def bind_another() -> None:
        async with admin_channel(amqp_url) as channel:
            queue = await channel.declare_queue("of-somebody", durable=True)
            await queue.bind("im.events", "im.user.#")

    asyncio.run(bind_another())
    dry = folder.apply("--prune")
    before = bindings(rabbitmq, amqp_url)
    done = folder.apply("--prune", "--yes")
    again = folder.apply("--prune", "--yes")

    others = {("im.sink.all", "#"), ("of-somebody", "im.user.#")}
    kept = {("im.sink.crm", "im.group.#"), ("im.sink.crm", "im.room.#")} | others
    assert "would remove  im.events -> im.sink.crm [im.user.#]" in dry.stdout
    assert "Nothing was removed" in dry.stderr
    assert before == kept | {("im.sink.crm", "im.user.#")}
    assert done.stdout.splitlines()[1:] == ["removed  im.events -> im.sink.crm [im.user.#]"]
    assert bindings(rabbitmq, amqp_url) == kept
    assert "No binding of these sinks is one too many." in again.stdout
    vhost = urlsplit(amqp_url).path[1:]
    assert all(rabbitmq.ready(vhost, f"im.sink.{name}") == 0 for name in ("crm", "all"))


def test_without_management_the_commands_are_printed(tmp_path: Path, amqp_url: str) -> None:
    """What can be applied is; exit code 1, because nothing was pruned."""
    folder = Folder(tmp_path, {"url": amqp_url, "management_url": "http://guest:guest@127.0.0.1:1"})
    done = folder.apply("--prune", "--yes", expect=1)
    vhost = urlsplit(amqp_url).path[1:]

    assert "All exchanges, queues and bindings stand." in done.stdout
    assert f"rabbitmqctl list_bindings -p {vhost} " in done.stdout
    assert "# of im.sink.crm keep im.group.#, im.user.#; remove each other KEY:" in done.stdout
    assert (
        f"rabbitmqadmin --vhost={vhost} delete binding source=im.events destination_type=exchange"
        " destination=im.sink.crm properties_key=KEY\n" in done.stdout
    )
    assert "guest" not in done.output


def test_what_is_not_declared_yet_is_told_with_the_way_to_do_so(folder: Folder) -> None:
    """Who looks before the first start has done nothing wrong."""
    before = folder.run("show").stdout
    folder.apply()
    after = folder.run("show").stdout

    assert "waiting" not in before
    assert "gateway topology apply" in before
    assert "waiting\n  all: 0 ready, 0 in retry, 0 parked\n" in after
    assert "gateway topology apply" not in after


def test_wrong_use_is_a_sentence_and_2(tmp_path: Path) -> None:
    """The embedded broker has no bindings; --yes alone says nothing."""
    folder = Folder(tmp_path, {"url": f"embedded:{tmp_path}/broker.db"})

    assert "needs no declaring" in folder.apply("--prune", expect=2).stderr
    folder.sections["broker"]["url"] = "amqp://guest:guest@127.0.0.1:1/"
    assert "there is no --prune" in folder.apply("--yes", expect=2).stderr
