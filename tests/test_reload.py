"""Reload: a changed configuration while requests are under way; real processes, as operators start them."""

import asyncio
import contextlib
import json
import logging
import signal
import threading
import urllib.error
import urllib.request

import pytest

from gateway.config import Config, changed_keys, with_changes
from gateway.errors import ConfigError
from gateway.limits import limits_of
from gateway.reload import Port, Reload
from gateway.tokens import TokenFiles
from tests.callback_port import callback_port, signed
from tests.gateway_process import body_of as exit_of
from tests.gateway_process import eventually, gateways

OLD, NEW, THIRD = "old-token-of-the-console", "new-token-of-the-console", "a-third-token-of-the-console"


def config_of(**sections):
    return Config.model_validate({"apps": {"1": {}}, **sections})


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a Gateway in its own folder."""
    with gateways(tmp_path) as build:
        yield build


# What differs, and what of it can be taken


def test_keys_that_differ_are_named_and_no_value():
    """Down to the key where both have the section, else the section; tokens are compared, not printed."""
    old = config_of(apps={"1": {"tokens": [OLD]}, "2": {}}, sinks={"a": {"kind": "jsonl", "path": "a"}})
    new = config_of(
        apps={"1": {"tokens": [NEW]}, "3": {}}, listen={"port": 9, "retry_after_s": 2}, log={"level": "debug"}
    )

    found = changed_keys(old, new)

    assert sorted(found) == sorted(
        ["listen.port", "listen.retry_after_s", "apps.1.tokens", "apps.2", "apps.3", "sinks.a", "log.level"]
    )
    assert changed_keys(new, new) == []


def test_what_needs_a_restart_keeps_its_value():
    """Apps, answers, limits and the log's level are taken; the rest is not."""
    old = config_of()
    new = config_of(
        apps={"2": {}}, listen={"port": 9, "max_inflight": 7, "ack_after": "written"},
        log={"level": "debug", "format": "json"}, journal={"id_window_s": 99},
        answers={"Group.CallbackBeforeSendMsg": {"code": 1}},
    )  # fmt: skip

    both = with_changes(old, new)

    assert list(both.apps) == ["2"]
    assert (both.listen.port, both.listen.max_inflight, both.listen.ack_after) == (8080, 7, "journaled")
    assert (both.log.level, both.log.format, both.journal.id_window_s) == ("debug", "auto", 10)
    assert sorted(changed_keys(both, new)) == [
        "journal.id_window_s", "listen.ack_after", "listen.port", "log.format",
    ]  # fmt: skip


def test_an_app_without_a_token_is_not_taken_where_others_can_reach_it():
    """The new file is fine with its own loopback host; the gateway listens elsewhere until a restart."""
    old = config_of(listen={"host": "0.0.0.0"}, apps={"1": {"tokens": [OLD]}})

    with pytest.raises(ConfigError, match=r"until a restart: apps\.1\.tokens"):
        with_changes(old, config_of())


def test_limits_that_change_keep_what_waits():
    """A backlog goes on counting where it was counted; a limit that stays keeps its bucket."""
    apps = config_of(apps={"1": {"max_backlog_mb": 2}, "2": {"max_per_s": 1}, "3": {}}).apps
    before = limits_of(apps, {}, 0.0)
    before["1"].stored(1, 2 * 1_048_576)
    before["2"].check(0.0, 0)

    after = limits_of(config_of(apps={"1": {"max_backlog_mb": 1}, "2": {"max_per_s": 1}}).apps, before, 0.0)

    assert sorted(before) == sorted(after) == ["1", "2"]
    with pytest.raises(Exception, match="app_backlog"):
        after["1"].check(0.0, 0)
    with pytest.raises(Exception, match="app_rate"):
        after["2"].check(0.0, 0)


# In one process, at the callback port


def reload_of(port, before, after, **roles):
    found = Reload(before, lambda: after, **({"serves": True, "works": False} | roles))
    found.port = Port(port.files, port.receiver, port.server)
    return found


async def test_a_callback_under_way_of_an_app_that_is_removed_is_answered(tmp_path):
    """It was accepted before the reload; afterwards the app is a stranger, and its silence no fault."""
    apps = {"1": {"tokens": [OLD]}, "2": {}}
    async with callback_port(tmp_path, apps=apps) as port:
        before = config_of(apps=apps)
        reload = reload_of(port, before, config_of(apps={"2": {}}))
        held = []
        stored = port.receiver._stored
        port.receiver._stored = lambda *about: held.append(about)
        asking = asyncio.ensure_future(port.post(signed(OLD)))
        while not held:
            await asyncio.sleep(0.01)
        told = await reload.now()
        stored(*held[0])
        port.receiver._stored = stored

        assert await asking == (200, "")
        assert told.changed == ["apps.1"]
        assert await port.post(signed(OLD)) == (403, "unknown_app")
        assert port.value("gateway_callbacks_stored_total", app="1") == 1
        assert port.value("gateway_last_callback_timestamp_seconds", app="1") is None
        assert port.value("gateway_last_callback_timestamp_seconds", app="2") == 0


async def test_an_app_that_had_tokens_in_its_file_stays_signed(tmp_path):
    """An empty file must not open an app; a configuration that names no token any more does."""
    path = tmp_path / "tokens"
    path.write_text(OLD)
    apps = {"1": {"tokens_file": path}}
    async with callback_port(tmp_path, apps=apps) as port:
        path.write_text("")
        with_file = reload_of(
            port, config_of(apps=apps), config_of(apps={"1": {"tokens_file": path, "max_per_s": 9}})
        )
        await with_file.now()
        closed = await port.post("SdkAppid=1&CallbackCommand=x")
        await reload_of(port, with_file.config, config_of()).now()

        assert closed == (401, "bad_signature")
        assert await port.post("SdkAppid=1&CallbackCommand=x") == (200, "")


async def test_limits_of_the_port_are_taken(tmp_path):
    """Of bodies, of networks and of the time a Sign may be off, at once."""
    apps = {"1": {"tokens": [OLD]}}
    async with callback_port(tmp_path, apps=apps) as port:
        before = config_of(apps=apps)
        assert await port.post(signed(OLD, -90)) == (401, "bad_signature")
        assert await port.post(signed(OLD), body=b'{"a":"%s"}' % (b"x" * 2000)) == (200, "")
        listen = {"max_body_bytes": 1024, "signature_window_s": 120}
        reload = reload_of(port, before, config_of(apps=apps, listen=listen))
        told = await reload.now()
        assert sorted(told.changed) == ["listen.max_body_bytes", "listen.signature_window_s"]
        assert await port.post(signed(OLD, -90)) == (200, "")
        assert await port.post(signed(OLD), body=b'{"a":"%s"}' % (b"x" * 2000)) == (413, "body_too_large")
        networks = config_of(apps=apps, listen={**listen, "allow_networks": ["192.0.2.0/24"]})
        await reload_of(port, reload.config, networks).now()

        assert await port.post(signed(OLD)) == (403, "forbidden")


async def test_waiting_callbacks_of_a_removed_app_stay_redacted():
    """They stand in the journal when the app goes, and are forwarded later."""
    before = config_of(apps={"1": {"redact": {"accounts": "drop"}}, "2": {}})
    reload = Reload(before, lambda: config_of(apps={"2": {}}), serves=True, works=False)
    held = reload.redactions
    await reload.now()

    assert held is reload.redactions
    assert held["1"].is_active


@pytest.mark.parametrize(
    ("roles", "named"),
    [
        ({"serves": True, "works": True}, ["admin.port", "listen.port", "sinks.a.path"]),
        ({"serves": True, "works": False}, ["admin.port", "listen.port"]),
        ({"serves": False, "works": True}, ["admin.worker_port", "sinks.a.path"]),
    ],
)
async def test_each_process_names_what_concerns_it(roles, named):
    """A worker needs no restart for a port of the gateway's; nor that for where a sink writes."""
    old = config_of(sinks={"a": {"kind": "jsonl", "path": "a"}})
    new = config_of(
        sinks={"a": {"kind": "jsonl", "path": "b"}}, listen={"port": 9, "retry_after_s": 3},
        admin={"port": 10, "worker_port": 11}, log={"level": "debug"},
    )  # fmt: skip

    told = await Reload(old, lambda: new, **roles).now()

    assert sorted(told.restart) == named
    assert ("listen.retry_after_s" in told.changed) == roles["serves"]
    logging.getLogger("gateway").setLevel(logging.NOTSET)


async def test_patterns_of_a_sink_concern_the_gateway_too():
    """It declares the queues and bindings."""
    old = config_of(sinks={"a": {"kind": "jsonl", "path": "a"}})
    new = config_of(sinks={"a": {"kind": "jsonl", "path": "a", "events": ["im.group.#"]}})

    told = await Reload(old, lambda: new, serves=True, works=False).now()

    assert (told.changed, told.restart) == ([], ["sinks.a.events"])


async def test_a_wrong_configuration_changes_nothing(caplog):
    """Whether it can't be read, or its parts do not fit; the reason stands in the log."""

    def wrong():
        raise ConfigError("config.yaml: listen.prot: unknown key")

    old = config_of()
    for read in (wrong, lambda: config_of(apps={}), lambda: config_of(listen={"port": 8081})):
        reload = Reload(old, read, serves=True, works=False)
        with pytest.raises(ConfigError):
            await reload.now()
        assert reload.config is old

    said = [record.getMessage() for record in caplog.records if "nothing was changed" in record.getMessage()]
    assert len(said) == 3
    assert "listen.prot: unknown key" in said[0]


def test_token_files_are_read_before_anything_changes(tmp_path):
    """A file that is not there is a wrong configuration."""
    with pytest.raises(ConfigError, match="No such file"):
        TokenFiles(config_of(apps={"1": {"tokens_file": tmp_path / "none"}}).apps)


# Real processes


class Load(threading.Thread):
    """Posts signed callbacks, one after the other, each on a connection that stays or a new one."""

    def __init__(self, gateway):
        super().__init__()
        self._gateway = gateway
        self.token = OLD
        self.answers = []
        self.faults = []
        self.is_over = threading.Event()

    def run(self):
        number = 0
        while not self.is_over.is_set():
            number += 1
            try:
                self.answers.append((self.token, post(self._gateway, self.token, number)))
            except OSError as fault:
                self.faults.append(fault)


def post(gateway, token, number=0, app_id="1400000000"):
    """Post a signed callback; return the status."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.port}/callback?{signed(token, app_id=app_id)}",
        data=json.dumps(exit_of(number)).encode(),
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextlib.contextmanager
def load_on(gateway):
    load = Load(gateway)
    load.start()
    try:
        yield load
    finally:
        load.is_over.set()
        load.join(30)


def test_every_request_is_answered_across_reloads(make):
    """Tokens change from old over both to new, while callbacks come; each that was taken arrives."""
    gateway = make(apps={"1400000000": {"tokens": [OLD]}})
    gateway.start("run")
    with load_on(gateway) as load:
        eventually(lambda: len(load.answers) > 20, "callbacks before the reload")
        gateway.change(("apps", "1400000000", "tokens"), [OLD, NEW])
        said = gateway.command("reload")
        load.token = NEW
        at = len(load.answers)
        eventually(lambda: len(load.answers) > at + 20, "callbacks with the new token")
        gateway.change(("apps", "1400000000", "tokens"), [NEW, THIRD])
        gateway.processes[0].send_signal(signal.SIGHUP)
        eventually(lambda: post(gateway, THIRD, 10**6) == 200, "SIGHUP taken")
        at = len(load.answers)
        eventually(lambda: len(load.answers) > at + 20, "callbacks after both reloads")

    assert "in force now: apps.1400000000.tokens" in said
    assert load.faults == []
    assert {status for _, status in load.answers} == {200}
    assert post(gateway, OLD) == 401
    taken = len(load.answers) + 1
    eventually(lambda: len({one["id"] for one in gateway.lines()}) >= taken, "all of them in the sink")
    log = gateway.logs()
    assert log.count("Reloaded the configuration; in force now: apps.1400000000.tokens") == 2
    assert OLD not in log + said
    assert NEW not in log + said


def test_a_new_app_and_another_log_level(make):
    """Both at once; an app that goes is refused from then on."""
    gateway = make(apps={"1400000000": {"tokens": [OLD]}})
    gateway.start("run")
    before = post(gateway, NEW, app_id="1400000001")
    gateway.change(("apps",), {"1400000001": {"tokens": [NEW]}})
    gateway.change(("log",), {"format": "json", "level": "error"})
    said = gateway.command("reload")

    assert (before, post(gateway, NEW, app_id="1400000001")) == (403, 200)
    assert post(gateway, OLD) == 403
    assert "apps.1400000000, apps.1400000001, log.level" in said
    assert "Reloaded" not in gateway.logs()


def test_a_wrong_file_says_why_and_changes_nothing(make):
    """By the command and by the signal; the gateway goes on with what it had."""
    gateway = make(apps={"1400000000": {"tokens": [OLD]}})
    process = gateway.start("run")
    gateway.change(("apps", "1400000000"), {"tokens": [NEW], "max_per_sec": 3})
    by_command = gateway.command("reload", expect=2)
    process.send_signal(signal.SIGHUP)
    eventually(lambda: "nothing was changed" in gateway.logs(), "the reason in the log")

    for said in (by_command, gateway.logs()):
        assert "apps.1400000000.max_per_sec: unknown key; did you mean apps.1400000000.max_per_s?" in said
    assert (post(gateway, OLD), post(gateway, NEW)) == (200, 401)


def test_a_file_that_only_the_gateway_finds_wrong(make):
    """Its shape is good, what it names is not there: the gateway says so through the command."""
    gateway = make(apps={"1400000000": {"tokens": [OLD]}})
    gateway.start("run")
    gateway.change(("apps", "1400000000"), {"tokens_file": "none", "tokens": [NEW]})
    said = gateway.command("reload", expect=2)

    assert "apps.1400000000.tokens_file: none: No such file or directory" in said
    assert "nothing was changed" in said
    assert post(gateway, OLD) == 200


def test_what_needs_a_restart_is_named_and_the_rest_taken(make):
    """In the command's output and in the log, by each process for itself."""
    gateway = make(apps={"1400000000": {"tokens": [OLD]}})
    gateway.start("serve")
    gateway.start("work")
    gateway.change(("apps", "1400000000", "tokens"), [NEW])
    gateway.change(("listen", "ack_after"), "written")
    gateway.change(("sinks", "audit", "path"), "var/other.jsonl")
    said = gateway.command("reload")

    assert f"serve at 127.0.0.1:{gateway.admin_port}: in force now: apps.1400000000.tokens\n" in said
    need = "needs a restart, until then the old values count"
    assert f"serve at 127.0.0.1:{gateway.admin_port}: {need}: listen.ack_after\n" in said
    assert f"work at 127.0.0.1:{gateway.worker_port}: in force now: nothing new\n" in said
    assert f"work at 127.0.0.1:{gateway.worker_port}: {need}: sinks.audit.path\n" in said
    assert "Some changes need a restart, until then the old values count: listen.ack_after" in gateway.logs()
    assert (post(gateway, OLD), post(gateway, NEW)) == (401, 200)


def test_the_admin_token_is_asked_for(make):
    """A new one needs a restart, so the command says why it is refused."""
    gateway = make()
    gateway.change(("admin", "token"), "a-token-for-the-admin-port")
    gateway.start("run")
    right = gateway.command("reload")
    gateway.change(("admin", "token"), "another-one-for-the-admin-port")
    wrong = gateway.command("reload", expect=1)
    gateway.processes[0].send_signal(signal.SIGHUP)
    eventually(lambda: "old values count: admin.token" in gateway.logs(), "the restart it needs")

    assert "in force now: nothing new" in right
    assert "started with another admin.token" in wrong


def test_nothing_runs(make):
    """The command says where it looked."""
    said = make().command("reload", expect=1)

    assert "no gateway answers at 127.0.0.1:" in said


def test_a_removed_apps_backlog_is_forwarded_redacted(make, amqp_url):
    """Its callbacks wait for the broker when it goes; what they hide stays hidden."""
    gateway = make(
        broker={"url": amqp_url, "declare": "off"},
        apps={"1400000000": {"redact": {"accounts": "drop"}}, "1400000001": {}},
    )
    gateway.start("serve")
    sender = gateway.sender()
    assert all(sender.post(number) for number in range(3))
    eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 3, "three that wait")
    gateway.change(("apps",), {"1400000001": {}})
    gateway.command("reload")
    gateway.command("topology", "apply")
    gateway.start("work")
    eventually(lambda: len(gateway.lines()) == 3, "three in the sink")

    assert all("u1" not in json.dumps(one["data"]) for one in gateway.lines())
    assert all("raw" not in one["data"] for one in gateway.lines())


def test_a_replay_goes_by_the_redaction_that_was_reloaded(make):
    """Over the admin port, as the forwarder does: what an app has begun to hide is not published again."""
    gateway = make()
    gateway.start("run")
    assert gateway.sender().post(1)
    eventually(lambda: len(gateway.lines()) == 1, "the event")
    gateway.change(("apps", "1400000000"), {"redact": {"accounts": "drop"}})
    gateway.command("reload")
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.admin_port}/api/journal/replay",
        data=json.dumps({"first": 1, "yes": True}).encode(),
        headers={"X-Gateway-Action": "1"},
    )
    eventually(lambda: gateway.metrics()["gateway_journal_waiting_records"] == 0, "the confirm")
    with urllib.request.urlopen(request, timeout=10):
        pass
    first, again = eventually(lambda: gateway.lines()[1:] and gateway.lines(), "the event again")

    assert first["data"]["operator"] == "u1"
    assert "u1" not in json.dumps(again["data"])
