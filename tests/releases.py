"""``python -m tests.releases``: keep the data of this release, so that later ones prove that they read it.

Makes a folder as an operator's is before an upgrade, and packs it into tests/samples/releases/<version>.tar.gz: one
callback is in both sinks, one waits in the embedded broker, one in the journal. Run it once for each release that
changes a format; what is there already is never made anew.
"""

import json
import sys
import tarfile
import tempfile
from pathlib import Path

from gateway import __version__
from tests.gateway_process import Gateway, eventually

FOLDER = Path(__file__).parent / "samples/releases"
AWAY = "amqp://guest:guest@127.0.0.1:1/"
KEPT = ("var/journal", "var/broker.db", "var/exits.db", "var/events.jsonl")


def fill(gateway: Gateway) -> None:
    """Bring callback 1 into the sinks, leave 2 in the broker's queues and 3 in the journal."""
    for number, command, broker in ((1, "run", None), (2, "serve", None), (3, "serve", AWAY)):
        if broker:
            gateway.change(["broker"], {"url": broker})
        process = gateway.start(command)
        assert gateway.sender().post(number)
        if number == 1:
            eventually(lambda: gateway.metrics().get("gateway_sink_written_total{sink=exits}") == 1, "exits")
            eventually(lambda: len(gateway.lines()) == 1, "events")
        if number == 2:
            eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 0, "published")
        assert gateway.stop(process) == 0
    gateway.change(["broker"], {"url": "embedded:var/broker.db"})


def events(gateway: Gateway) -> list[dict[str, object]]:
    """Return the events of the three callbacks, as this release makes them."""
    shown = [gateway.command("journal", "show", str(at), "--event") for at in (1, 2, 3)]
    return [json.loads(one.splitlines()[0]) for one in shown]


def main() -> None:
    archive = FOLDER / f"{__version__}.tar.gz"
    if archive.exists():
        sys.exit(f"{archive} is there: what a release wrote does not change any more")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        gateway = Gateway(Path(temporary))
        try:
            fill(gateway)
            (gateway.folder / "events.json").write_text(json.dumps(events(gateway)))
        finally:
            gateway.close()
        with tarfile.open(archive, "w:gz") as packed:
            for name in (*KEPT, "events.json"):
                packed.add(gateway.folder / name, name, filter=_nobody)


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if member.name.endswith("lock") else member


if __name__ == "__main__":
    main()
