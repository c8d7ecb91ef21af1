"""The console over HTTP: its files, who may see what, and what the overview says."""

import asyncio
import json
import logging

import pytest
from aiohttp import web

from gateway.admin import ACTION_HEADER, COOKIE, Admin, Health
from gateway.console import Overview, Pages
from gateway.console.history import History
from gateway.console.stream import Streams
from gateway.metrics import Metrics

ACT = {ACTION_HEADER: "1"}
PAGES = ["", "exits", "events", "dead", "journal", "login"]


class Clock:
    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def health():
    return Health()


@pytest.fixture
def overview(metrics, health, clock):
    about = {"version": "1", "serves": True, "works": [], "sinks": ["crm"]}
    return Overview(metrics, lambda: health, about, 3600, Streams(), clock)


@pytest.fixture
def open_up(aiohttp_client, metrics, health, overview, clock):
    async def made(token: str = "", view_token: str = "", *, is_local: bool = True):
        async def act(request: web.Request) -> web.Response:
            return web.json_response({"done": True})

        routes = [*Pages().routes(), *overview.routes(), web.post("/api/act", act)]
        admin = Admin(
            token, lambda: health, metrics, routes, view_token=view_token, is_local=is_local, now_s=clock
        )
        return await aiohttp_client(admin.application())

    return made


@pytest.fixture
async def client(open_up):
    return await open_up()


@pytest.mark.parametrize("page", PAGES)
async def test_every_page_forbids_all_but_its_own_files(client, page):
    """No inline code, no foreign address, no frame, and no string that becomes markup."""
    answer = await client.get(f"/console/{page}")
    text = await answer.text()
    policy = dict(one.strip().split(" ", 1) for one in answer.headers["Content-Security-Policy"].split(";"))

    assert answer.status == 200
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "{{" not in text
    assert "style=" not in text
    assert "onclick" not in text
    assert f'src="/console/static/{page or "overview"}.js"' in text


async def test_every_file_of_a_page_is_there(client):
    """What a page names is served with its type, and needs nothing from elsewhere."""
    for page in PAGES:
        script = await client.get(f"/console/static/{page or 'overview'}.js")

        assert script.content_type == "text/javascript", page
        assert "http" not in (await script.text()).replace("http://www.w3.org/2000/svg", ""), page
    assert (await client.get("/console/static/console.css")).content_type == "text/css"
    assert (await client.get("/console/static/icon.svg")).content_type == "image/svg+xml"


@pytest.mark.parametrize(
    "path", ["/console/none", "/console/static/shell.html", "/console/static/..%2fpages.py"]
)
async def test_nothing_else_is_served(client, path):
    """A name that is none of the files is answered 404."""
    assert (await client.get(path)).status == 404


async def test_the_root_leads_to_the_overview(client):
    """Who types only the address gets to the first page."""
    answer = await client.get("/", allow_redirects=False)

    assert (answer.status, answer.headers["Location"]) == (302, "/console/")


async def test_on_this_machine_no_login_is_needed(client):
    """Loopback without a token: who gets here may act, with the header that no form can send."""
    me = await (await client.get("/api/me")).json()
    bare = await client.post("/api/act")
    right = await client.post("/api/act", headers=ACT)

    assert me == {"role": "act", "needs_login": False}
    assert (bare.status, (await bare.json())["error"]) == (403, "no_action_header")
    assert right.status == 200


async def test_a_page_under_a_name_of_its_own_sees_nothing(client):
    """DNS rebinding: a foreign Host is refused, for the API and its streams."""
    for path in ("/api/overview", "/api/overview/live", "/api/me"):
        answer = await client.get(path, headers={"Host": "evil.example:8081"})

        assert (answer.status, (await answer.json())["error"]) == (403, "foreign_host")


async def test_elsewhere_a_login_is_needed(open_up):
    """Without token or cookie nothing of the API answers; the page itself holds no data."""
    client = await open_up("act-secret-long-enough", is_local=False)
    for path in ("/api/overview", "/api/overview/live", "/api/me"):
        assert (await client.get(path)).status == 401
    assert (await client.post("/api/act", headers=ACT)).status == 401
    assert (await client.get("/console/")).status == 200


async def test_a_login_gives_a_cookie_that_scripts_never_see(open_up):
    """HttpOnly, SameSite=Strict, for twelve hours; Secure behind TLS; and the token is not in it."""
    client = await open_up("act-secret-long-enough", is_local=False)
    answer = await client.post(
        "/api/login", json={"token": "act-secret-long-enough"}, headers={**ACT, "X-Forwarded-Proto": "https"}
    )
    cookie = answer.cookies[COOKIE]

    assert (answer.status, await answer.json()) == (200, {"role": "act"})
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Strict", True)
    assert cookie["max-age"] == str(12 * 3600)
    assert "secret" not in cookie.value


async def test_a_login_lasts_until_it_ends_or_is_ended(open_up, clock):
    """Logged in one may act; after logging out, or twelve hours, no more."""
    client = await open_up("act-secret-long-enough")
    # Why cut: the test's cookie jar goes by its own clock.
    login = await client.post("/api/login", json={"token": "act-secret-long-enough"}, headers=ACT)
    cookie = {"Cookie": f"{COOKIE}={login.cookies[COOKIE].value}"}
    before = await client.post("/api/act", headers=ACT)
    left = await client.post("/api/logout", headers=ACT)
    after = await client.get("/api/me")
    still = await client.get("/api/me", headers=cookie)
    clock.now_s += 12 * 3600
    late = await client.get("/api/me", headers=cookie)

    assert (before.status, left.status, after.status) == (200, 200, 401)
    assert (still.status, late.status) == (200, 401)


async def test_who_may_only_look_can_not_act(open_up):
    """The view token sees the overview and is told why an action is refused, by cookie and by bearer alike."""
    client = await open_up("act-secret-long-enough", "view-secret-long-enough", is_local=False)
    await client.post("/api/login", json={"token": "view-secret-long-enough"}, headers=ACT)
    seen = await client.get("/api/overview")
    refused = await client.post("/api/act", headers=ACT)
    bearer = await client.post("/api/act", headers={**ACT, "Authorization": "Bearer view-secret-long-enough"})

    assert seen.status == 200
    assert (refused.status, (await refused.json())["error"]) == (403, "only_view")
    assert bearer.status == 403


async def test_a_login_needs_the_header_too(open_up):
    """No foreign form can log a browser in under somebody else's token."""
    client = await open_up("act-secret-long-enough", is_local=False)

    assert (await client.post("/api/login", json={"token": "act-secret-long-enough"})).status == 403


@pytest.mark.parametrize("body", ["", "[]", "{}", '"x"', "{", '{"token":1}'])
async def test_what_is_no_login_is_refused(open_up, body):
    """Bad input is an answer of ours, never a fault."""
    client = await open_up("act-secret-long-enough", is_local=False)

    assert (await client.post("/api/login", data=body, headers=ACT)).status in (400, 401)


async def test_wrong_tokens_are_logged_seldom(open_up, caplog, clock):
    """An operator sees that somebody tries; the log is not filled by it, and the token stands nowhere."""
    client = await open_up("act-secret-long-enough", is_local=False)
    for _ in range(5):
        answer = await client.post("/api/login", json={"token": "guess-1"}, headers=ACT)
        assert answer.status == 401
    clock.now_s += 61
    await client.post("/api/login", json={"token": "guess-2"}, headers=ACT)
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]

    assert len(said) == 2
    assert "6 so far" in said[1]
    assert "guess" not in caplog.text


async def told(client):
    answer = await client.get("/api/overview")
    assert answer.headers["Cache-Control"] == "no-store"
    return await answer.json()


async def test_a_quiet_gateway_is_green(client, metrics, clock):
    """An app that has just sent something, and nothing wrong: green, without causes."""
    metrics.last_callback.labels("14").set(clock.now_s - 5)
    found = await told(client)

    assert (found["level"], found["causes"]) == ("green", [])
    assert found["now"]["apps"]["14"]["last_s"] == clock.now_s - 5


async def test_silence_is_named(client, metrics, clock):
    """An app without callbacks for an hour, or ever, is amber, with its name and what to ask."""
    metrics.last_callback.labels("14").set(clock.now_s - 7300)
    metrics.last_callback.labels("15").set(0)
    found = await told(client)
    said = [one["text"] for one in found["causes"]]

    assert found["level"] == "amber"
    assert said[0].startswith("App 14 has sent no callback for 2 h")
    assert said[1].startswith("App 15 has sent no callback since the start")


async def test_causes_of_the_health_are_red_and_notes_amber(client, health):
    """What /readyz says is said here in the same words, the worst first."""
    health.notes.append("the broker takes no events; 7 callbacks wait in the journal")
    health.causes.append("the journal is full: callbacks are refused with 503")
    found = await told(client)

    assert found["level"] == "red"
    assert [one["level"] for one in found["causes"]] == ["red", "amber"]
    assert "7 callbacks wait" in found["causes"][1]["text"]


@pytest.mark.parametrize(("stored", "level"), [(3, "amber"), (0, "red")])
async def test_refusals_of_the_last_minutes_are_named(client, metrics, overview, clock, stored, level):
    """With the reason's meaning; red where nothing was taken meanwhile. Old ones are silent."""
    metrics.requests_refused.labels("bad_signature").inc(100)
    overview._history.note(overview.figures())
    quiet = await told(client)
    clock.now_s += 120
    metrics.requests_refused.labels("bad_signature").inc(4)
    metrics.callbacks_stored.labels("14").inc(stored)
    found = await told(client)

    assert quiet["level"] == "green"
    assert found["level"] == level
    assert found["causes"][0]["text"].startswith("4 callbacks were refused in the last 2 min (bad_signature)")


@pytest.mark.parametrize(
    ("set_up", "level", "said"),
    [
        (lambda m: m.sink_dead.labels("crm").set(3), "amber", "3 events of sink crm are parked"),
        (lambda m: m.sink_stopped.labels("crm").set(1), "red", "Sink crm is tried again only after a restart"),
        (lambda m: m.sink_refuses.labels("crm").set(1), "red", "The queue of sink crm takes no events"),
        (lambda m: m.unrouted_events.set(9), "amber", "9 events are taken by no sink"),
        (lambda m: m.broker_blocked.set(1), "amber", "RabbitMQ reads no publishes"),
        (lambda m: m.journal_lost.inc(2), "red", "2 callbacks were lost"),
        (lambda m: m.clock_skew.labels("14").set(-45), "amber", "apart"),
        (lambda m: m.certificate_expiry.labels("listen.tls_cert").set(1_799_999_000), "red", "has ended"),
        (lambda m: m.certificate_expiry.labels("listen.tls_cert").set(1_800_200_000), "amber", "ends in 2 days"),
    ],
)  # fmt: skip
async def test_each_fault_has_its_level_and_words(client, metrics, clock, set_up, level, said):
    """One fault at a time: its level, and what it is."""
    metrics.last_callback.labels("14").set(clock.now_s)
    set_up(metrics)
    found = await told(client)

    assert (found["level"], len(found["causes"])) == (level, 1)
    assert said in found["causes"][0]["text"]


@pytest.mark.parametrize(
    ("earlier", "now", "seconds", "is_named"),
    [
        (200, 200, 120, True),
        (200, 5000, 300, True),
        (200, 199, 120, False),
        (99, 5000, 120, False),
        (200, 200, 60, False),
    ],
)
async def test_a_queue_that_does_not_become_shorter_is_named(
    client, metrics, overview, clock, earlier, now, seconds, is_named
):
    """A worker that is not running counts nothing: its queue tells."""
    metrics.sink_waiting.labels("crm").set(earlier)
    overview._history.note(overview.figures())
    clock.now_s += seconds
    metrics.sink_waiting.labels("crm").set(now)
    found = await told(client)

    assert [one["text"].startswith(f"{now:,} events wait for sink crm") for one in found["causes"]] == [
        True
    ] * is_named


async def test_figures_are_counts(client, metrics):
    """What several processes tell can be added up: counts, and buckets instead of quantiles."""
    metrics.requests_answered.inc(3)
    metrics.answer_seconds.observe(0.002)
    metrics.sink_written.labels("crm").inc(5)
    metrics.sink_parked.labels("crm", "transform").inc(2)
    now = (await told(client))["now"]

    assert now["requests"]["answered"] == 3
    assert now["answers"]["count"] == now["answers"]["buckets"]["+Inf"] == 1
    assert (now["sinks"]["crm"]["written"], now["sinks"]["crm"]["parked"]) == (5, {"transform": 2})


async def test_the_stream_tells_the_overview(client):
    """Server-sent events of one name, each with the whole state."""
    async with client.get("/api/overview/live") as answer:
        lines = [await answer.content.readline() for _ in range(3)]

    assert answer.content_type == "text/event-stream"
    assert lines[0] == b"event: overview\n"
    assert json.loads(lines[1].removeprefix(b"data: "))["level"] == "green"
    assert lines[2] == b"\n"


async def test_only_so_many_follow(client):
    """The seventeenth stream is refused with a reason; a free place is given again."""
    streams = [await client.get("/api/overview/live") for _ in range(16)]
    refused = await client.get("/api/overview/live")

    assert (refused.status, (await refused.json())["error"]) == (503, "too_many_viewers")
    for one in streams:
        one.close()


async def test_a_fault_of_the_history_ends_nothing(overview, monkeypatch, caplog):
    """The console may fail, the gateway goes on: the task that keeps the history must not end."""
    rounds = []

    async def pause(seconds):
        rounds.append(seconds)
        if len(rounds) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(Overview, "figures", lambda self: {}["nothing"])
    monkeypatch.setattr("gateway.console.overview.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        await overview.run()

    assert caplog.text.count("The console's history can't be kept (KeyError") == 2


async def test_many_pages_cost_one(client, metrics, clock):
    """Figures are collected once a second at most, however many ask, and also after a clock was set back."""
    first = await told(client)
    metrics.requests_probes.inc()
    same = await told(client)
    clock.now_s += 1
    later = await told(client)
    metrics.requests_probes.inc()
    clock.now_s -= 3600
    back = await told(client)

    assert [one["now"]["requests"]["probes"] for one in (first, same, later, back)] == [0, 0, 1, 2]


def test_the_history_is_bounded():
    """An hour of rows, whatever happens; a sink that comes later has zeros before."""
    history = History()
    empty = {"requests": {"stored": 0, "refused": {}}, "broker": {"published": 0}, "journal": {"waiting": 0}}
    for number in range(1000):
        sinks = {"crm": {"written": number}} if number > 900 else {}
        history.note({**empty, "at_s": number * 10.0, "sinks": sinks})
    series = history.series()

    assert {len(column) for column in series.values()} == {361}
    assert (series["sink:crm"][0], series["sink:crm"][-1]) == (0, 999)
    assert history.before(9990, 60)["at_s"] == 9930
    assert history.before(9990, 1e6)["at_s"] == 9690
