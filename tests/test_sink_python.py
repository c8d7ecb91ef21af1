"""Sinks of the user's own: found by name or by entry point, and never able to lose an event."""

import asyncio
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import build
from gateway.config import Config, PythonSink, load, masked
from gateway.errors import ConfigError, Poison, Unavailable
from gateway.simulator.arrivals import arrivals_of
from gateway.sinks import calls
from gateway.sinks.python import Own
from tests import own_sinks
from tests.gateway_process import Gateway, eventually
from tests.sink_events import exit_event


def own(target: str, **options: Any) -> Own:
    """Return the sink of the class *target*, of tests/own_sinks.py where no module is named."""
    target = target if ":" in target else f"tests.own_sinks:{target}"
    return Own(PythonSink(kind="python", target=target, options=options), "mine")


def fault_of(target: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        own(target, **options)
    return str(caught.value)


@pytest.fixture
def scripted() -> Any:
    """The class that does what it is told, told nothing yet."""
    own_sinks.Scripted.seen.clear()
    own_sinks.Scripted.on_write = staticmethod(lambda events: None)
    return own_sinks.Scripted


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A working directory of its own, as a user has one; modules that are loaded from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


async def test_the_methods_are_called_in_order(scripted: Any) -> None:
    """The object is made when the sink is opened, opened again after each outage, and closed once."""
    sink = own("Scripted")
    with pytest.raises(Unavailable, match="not_open"):
        await sink.write([exit_event("1")])
    await sink.open()
    await sink.open()
    await sink.write([exit_event("1"), exit_event("2")])
    await sink.close()
    await sink.close()

    assert scripted.seen == ["open", "open", ["1", "2"], "close"]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (None, {}),
        ({}, {}),
        ({1: Poison("too_odd")}, {1: "too_odd"}),
        ({0: Unavailable("busy_row"), 1: Poison("x")}, {0: "busy_row", 1: "x"}),
    ],
)
async def test_what_write_returns_names_what_failed(scripted: Any, result: Any, expected: Any) -> None:
    """None and an empty mapping mean that all is written."""
    scripted.on_write = staticmethod(lambda events: result)
    sink = own("Scripted")
    await sink.open()
    failures = await sink.write([exit_event("1"), exit_event("2")])

    assert {at: why.reason for at, why in failures.items()} == expected


@pytest.mark.parametrize(
    "result",
    [
        True,
        [Poison("x")],
        {2: Poison("x")},
        {-1: Poison("x")},
        {0: "bad"},
        {"0": Poison("x")},
        {True: Poison("x")},
    ],
)
async def test_a_result_that_means_nothing_writes_nothing(scripted: Any, result: Any) -> None:
    """Nobody knows what is written then: all comes again, and the sentence says what to return."""
    scripted.on_write = staticmethod(lambda events: result)
    sink = own("Scripted")
    await sink.open()
    with pytest.raises(Unavailable, match=r"bad_result: write\(\) returned a .* return None") as caught:
        await sink.write([exit_event("1"), exit_event("2")])

    assert caught.value.reason == "bad_result"


async def test_poison_for_a_batch_is_the_workers_to_find() -> None:
    """A class that only says that something is wrong leaves it to the worker, which halves the batch."""
    sink = own("Picky")
    await sink.open()
    with pytest.raises(Poison, match="odd"):
        await sink.write([exit_event("0"), exit_event("1")])


@pytest.mark.parametrize(
    "error", [RuntimeError("a secret"), TimeoutError(), KeyError("a secret"), SystemExit(1)]
)
async def test_an_exception_keeps_the_events(scripted: Any, error: BaseException) -> None:
    """The sentence names class and place, never the text; sys.exit() ends nothing."""

    def fail(events: Any) -> None:
        raise error

    scripted.on_write = staticmethod(fail)
    sink = own("Scripted")
    await sink.open()
    with pytest.raises(Unavailable) as caught:
        await sink.write([exit_event("1")])

    assert caught.value.reason == "sink_error"
    assert caught.value.__cause__ is error
    assert "test_sink_python.py" in caught.value.detail
    assert "secret" not in caught.value.detail
    assert caught.value.__cause__ is error  # by it the worker tells a lost connection from a bug


async def test_plain_functions_fail_as_asynchronous_ones_do() -> None:
    """Also when they leave with sys.exit(), when making or closing the object fails, and when opening does."""
    with pytest.raises(Unavailable, match=r"sink_error: RuntimeError at .*own_sinks.py"):
        await own("Broken").open()
    sink = own("Leaves")
    with pytest.raises(Unavailable, match="no_network: nobody there"):
        await sink.open()
    with pytest.raises(Unavailable, match="sink_error: SystemExit"):
        await sink.write([exit_event("1")])
    ends = own("Ends")
    await ends.open()
    with pytest.raises(Unavailable, match=r"sink_error: RuntimeError at .*own_sinks.py"):
        await ends.write([exit_event("1")])


async def test_closing_that_fails_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a class does at the end, the worker's own end goes on."""
    sink = own("Leaves")
    with pytest.raises(Unavailable):
        await sink.open()
    await sink.close()

    assert "its class can't be closed (RuntimeError at" in caplog.text
    assert "secret" not in caplog.text


async def test_plain_functions_run_beside_the_event_loop(tmp_path: Path) -> None:
    """Code that blocks holds up nobody, unless it is called `async`."""
    own_sinks.Stuck.gate.clear()
    sink = own("Stuck")
    await sink.open()
    write = asyncio.ensure_future(sink.write([exit_event("1")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert not write.done()
    own_sinks.Stuck.gate.set()
    assert await write == {}


async def test_a_function_that_does_not_return_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can end a thread; the log says which function it is, and the sink goes on when it has returned."""
    monkeypatch.setattr(calls, "_LAST_S", 0.01)
    own_sinks.Stuck.gate.clear()
    sink = own("Stuck")
    await sink.open()
    write = asyncio.ensure_future(sink.write([exit_event("1")]))
    await asyncio.sleep(0)
    write.cancel()
    await asyncio.gather(write, return_exceptions=True)
    with pytest.raises(Unavailable, match=r"still_running: Stuck.write has not returned for \d+ s"):
        await sink.write([exit_event("1")])
    monkeypatch.setattr(calls, "_LAST_S", 10)
    own_sinks.Stuck.gate.set()

    assert await sink.write([exit_event("1")]) == {}


async def test_asynchronous_code_that_blocks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up callbacks and metrics of the whole process, so the log says where it stands."""
    monkeypatch.setattr(calls, "BLOCKED_S", 0.01)
    monkeypatch.setattr(calls, "_ANSWER_S", 0.01)
    said: list[str] = []

    def note(text: str, *given: Any) -> None:
        said.append(text % given)
        own_sinks.Blocks.gate.set()

    monkeypatch.setattr(calls._log, "error", note)
    own_sinks.Blocks.gate.clear()
    sink = own("Blocks")
    await sink.open()
    await sink.write([exit_event("1")])

    assert said[0].startswith("Sink mine: Blocks.write holds up the whole process (at ")
    assert "own_sinks.py" in said[0]


async def test_a_class_that_blocks_while_it_is_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects in `__init__` holds up the process as much."""
    monkeypatch.setattr(calls, "BLOCKED_S", 0.01)
    monkeypatch.setattr(calls, "_ANSWER_S", 0.01)
    said: list[str] = []

    def note(text: str, *given: Any) -> None:
        said.append(text % given)
        own_sinks.BlocksAtFirst.gate.set()

    monkeypatch.setattr(calls._log, "error", note)
    own_sinks.BlocksAtFirst.gate.clear()
    await own("BlocksAtFirst").open()

    assert said[0].startswith("Sink mine: BlocksAtFirst holds up the whole process (at ")


async def test_asynchronous_code_that_waits_is_not_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting is what it is for."""
    monkeypatch.setattr(calls, "BLOCKED_S", 0.01)
    sink = own("Waits")
    await sink.open()
    await sink.write([exit_event("1")])

    assert not caplog.records


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "no_such_module:Lines",
            "sinks.mine.target: there is no module no_such_module; it is looked for among",
        ),
        ("tests.no_such_module:Lines", "there is no module tests.no_such_module;"),
        ("NoSuchClass", "has no class NoSuchClass; classes with write() there: Lines, PlainLines"),
        ("not_a_class", "sinks.mine.target: names a function, not a class"),
        ("NoWrite", "sinks.mine.target: NoWrite has no method write: async def write(self, events)"),
        ("WriteOfNothing", "WriteOfNothing has another method write: async def write(self, events)"),
        ("OpenOfSomething", "OpenOfSomething has another method open: async def open(self)"),
    ],
)
def test_what_can_not_be_used_is_a_fault_of_the_configuration(target: str, expected: str) -> None:
    """Each sentence says what was found, and what should be there."""
    assert expected in fault_of(target)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "sinks.mine.options: missing a required argument: 'path'; Lines takes (path, fsync=True)"),
        ({"path": "x", "pth": "a secret"}, "sinks.mine.options: got an unexpected keyword argument 'pth'"),
    ],
)
def test_options_are_the_arguments_of_the_class(options: dict[str, Any], expected: str) -> None:
    """A slip is found at the start, and no value is repeated."""
    said = fault_of("Lines", **options)

    assert expected in said
    assert "secret" not in said


def test_options_may_be_a_record() -> None:
    """A class with `Options` gets one, checked; each fault has its key, and no value is repeated."""
    said = fault_of("Checked", size_mb="a secret")

    assert "sinks.mine.options.path: field required" in said
    assert "sinks.mine.options.size_mb: input should be a valid integer" in said
    assert "secret" not in said


async def test_a_record_arrives_with_its_defaults(tmp_path: Path) -> None:
    """What the class gets is the record, not the mapping."""
    sink = own("Checked", path=str(tmp_path / "x"))
    await sink.open()

    assert sink._object.options.size_mb == 3
    assert await sink.write([exit_event("1")]) == {}


async def test_a_module_is_found_in_the_working_directory(here: Path) -> None:
    """Also by the installed command, which does not look there by itself."""
    (here / "my_sinks_here.py").write_text("class Mine:\n    async def write(self, events):\n        pass\n")
    sink = own("my_sinks_here:Mine")
    await sink.open()

    assert await sink.write([exit_event("1")]) == {}
    assert sys.path[-1] == str(here)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import no_such_driver\n", "my_sinks_here imports no_such_driver, which is not installed"),
        ("class Mine(\n", "can't be imported (SyntaxError in my_sinks_here.py, line 1)"),
        ("\n\nraise RuntimeError('a secret')\n", "can't be imported (RuntimeError at "),
        ("import sys\nsys.exit(3)\n", "can't be imported (SystemExit at "),
    ],
)
def test_a_module_that_fails_is_a_fault_of_the_configuration(here: Path, source: str, expected: str) -> None:
    """The sentence names the line, not its text."""
    (here / "my_sinks_here.py").write_text(source)
    said = fault_of("my_sinks_here:Mine")

    assert expected in said
    assert "secret" not in said


def test_options_are_masked(tmp_path: Path) -> None:
    """`gateway check` prints the configuration, and nobody but the class knows what is secret."""
    config = Config.model_validate(
        {
            "sinks": {
                "a": {
                    "kind": "python",
                    "target": "m:C",
                    "options": {"a": "secret", "b": ["secret", 7, None], "c": {"d": "secret", "e": True}},
                }
            }
        }
    )
    printed = yaml.safe_dump(masked(config))

    assert "secret" not in printed
    assert masked(config)["sinks"]["a"]["options"] == {
        "a": "***",
        "b": ["***", 7, None],
        "c": {"d": "***", "e": True},
    }


PACKAGE = """
from pydantic import BaseModel

class Loud:
    class Options(BaseModel):
        volume: int = 11

    def __init__(self, options):
        self.volume = options.volume

    def write(self, events):
        self.heard = [event.id for event in events]
"""


@pytest.fixture
def installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that brings the kind `loud`, installed as pip does it."""
    site = here / "site"
    info = site / "loud_sink-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "loud_sink.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud-sink\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gateway.sinks]\nloud = loud_sink:Loud\ngone = loud_sink:Gone\njsonl = loud_sink:Loud\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return here


def config_of(folder: Path, sink: str) -> Config:
    path = folder / "config.yaml"
    path.write_text(f"apps: {{1: {{}}}}\nsinks:\n  a:\n{textwrap.indent(sink, '    ')}")
    return load(path, {})


async def test_a_package_brings_a_kind(installed: Path) -> None:
    """Its name is the kind, its options are under `options`; the kinds of the gateway stay."""
    config = config_of(installed, "kind: loud\noptions: {volume: 3}\nevents: [im.group.#]\n")
    sink = build.make_sink("a", config.sinks["a"])
    await sink.open()

    assert await sink.write([exit_event("1")]) == {}
    assert isinstance(sink, Own)
    assert (sink._object.volume, sink._object.heard) == (3, ["1"])
    assert build.topology_of(config).sink("a").patterns == ("im.group.#",)
    assert type(config_of(installed, "kind: jsonl\npath: x\n").sinks["a"]).__name__ == "JsonlSink"


@pytest.mark.parametrize(
    ("sink", "expected"),
    [
        (
            "kind: lout\nvolume: 3\n",
            "sinks.a: there is no kind 'lout'; did you mean loud? There are: ",
        ),
        ("kind: loud\nvolume: 3\n", "sinks.a.volume: unknown key; Allowed here: apps, batch_max_events"),
        ("kind: loud\noptions: x\n", "sinks.a.options: must be a mapping"),
        ("kind: 5\n", "sinks.a: needs a kind: jsonl"),
    ],
)
def test_slips_with_kinds_are_named(installed: Path, sink: str, expected: str) -> None:
    """One fault for one slip."""
    with pytest.raises(ConfigError) as caught:
        config_of(installed, sink)

    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sink", "expected"),
    [
        ("kind: gone\n", "sinks.a.kind: loud_sink:Gone of loud-sink can't be imported (AttributeError"),
        ("kind: loud\noptions: {volume: x}\n", "sinks.a.options.volume: input should be a valid integer"),
    ],
)
def test_faults_of_a_package_are_named(installed: Path, sink: str, expected: str) -> None:
    """What a worker would not start with."""
    config = config_of(installed, sink)
    with pytest.raises(ConfigError) as caught:
        build.make_sink("a", config.sinks["a"])

    assert expected in str(caught.value)


def test_check_says_what_a_worker_would_not_start_with(tmp_path: Path) -> None:
    """A host that only serves needs no class of a worker, so it is a warning there and an error here."""
    gateway = Gateway(tmp_path, sinks={"a": {"kind": "python", "target": "no_such_module:Mine"}})

    assert "sinks.a.target: there is no module no_such_module" in gateway.command("check")
    assert "sinks.a.target: there is no module no_such_module" in gateway.command("work", expect=2)


def test_what_can_not_be_read_back_is_not_compared(tmp_path: Path) -> None:
    """Nobody knows where a class has put its events."""
    with pytest.raises(ConfigError, match="stands elsewhere"):
        arrivals_of(PythonSink(kind="python", target="m:C"))


def test_a_method_that_never_returns_does_not_keep_the_process(tmp_path: Path) -> None:
    """SIGTERM ends the gateway, and what was not acknowledged is there at the next start."""
    gateway = Gateway(tmp_path, sinks={"a": {"kind": "python", "target": "never:Returns"}})
    source = "import threading\n\nclass Returns:\n    def write(self, events):\n        open('inside', 'w').close()\n        {}\n"
    (tmp_path / "never.py").write_text(source.format("threading.Event().wait()"))
    try:
        process = gateway.start()
        assert gateway.sender().post(1)
        eventually((tmp_path / "inside").exists, "the write has begun")

        assert gateway.stop(process) == 0
        (tmp_path / "never.py").write_text(source.format("open('written', 'w').close()"))
        gateway.start()
        eventually((tmp_path / "written").exists, "the event came again")
    finally:
        gateway.close()
