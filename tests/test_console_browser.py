"""The console in a real browser: each page, each action, attacks through names and texts, and who can use it."""

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser import TIMEOUT_MS, Visitor, chromium
from tests.gateway_process import Gateway, body_of, eventually

pytestmark = pytest.mark.timeout(180)
expect.set_options(timeout=TIMEOUT_MS)
PAGES = {
    "": "Overview", "exits": "Who left", "events": "Live events", "dead": "Dead letters", "journal": "Journal",
}  # fmt: skip
ATTACK = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"
SECRET = f"see you at eight {ATTACK}"
TOKENS = {"token": "act-secret-long-enough", "view_token": "view-secret-long-enough"}
# No message can be shaped by this, because abs() takes no text: all are parked.
SINKS = {
    "audit": {"kind": "jsonl", "path": "var/events.jsonl"},
    "exits": {"kind": "sqlite", "path": "var/exits.db", "events": ["im.group.member.exited.#"]},
    "strict": {
        "kind": "sqlite", "path": "var/strict.db", "events": ["im.group.message.#"],
        "transform": "{n: abs(data.group_id)}",
    },
}  # fmt: skip


def post(gateway: Gateway, command: str, body: dict[str, object]) -> None:
    query = urllib.parse.urlencode({"SdkAppid": "1400000000", "CallbackCommand": command})
    url = f"http://127.0.0.1:{gateway.port}/callback?{query}"
    request = urllib.request.Request(url, json.dumps({"CallbackCommand": command, **body}).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["ErrorCode"] == 0


def say(gateway: Gateway, number: int, text: str = SECRET, group: str = "@TGS#7") -> None:
    elements = [{"MsgType": "TIMTextElem", "MsgContent": {"Text": text}}]
    body = {
        "GroupId": group,
        "Type": "Public",
        "From_Account": "jared",
        "MsgSeq": number,
        "MsgBody": elements,
    }
    post(gateway, "Group.CallbackAfterSendMsg", body)


def leave(gateway: Gateway, number: int, **fields: object) -> None:
    post(gateway, "Group.CallbackAfterMemberExit", body_of(number, **fields))


def parked(gateway: Gateway) -> float:
    return gateway.metrics().get("gateway_sink_dead_events{sink=strict}", 0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that took exits and messages, with attacks in every name, and parked the messages."""
    found = Gateway(tmp_path_factory.mktemp("console"), sinks=SINKS)
    try:
        found.start()
        for number in range(20):
            leave(found, number, EventTime=1_670_574_414_123 + number * 86_400_000)
        leave(
            found,
            50,
            GroupId=f"@TGS#{ATTACK}",
            ExitMemberList=[{"Member_Account": ATTACK}],
            Operator_Account=ATTACK,
        )
        for number in range(3):
            say(found, number)
        say(found, 3, group=ATTACK)
        eventually(lambda: len(found.lines()) == 25, "all events written")
        eventually(lambda: parked(found) == 4, "messages parked")
        yield found
    finally:
        found.close()


@pytest.fixture
def visitor(browser: Browser, gateway: Gateway) -> Iterator[Visitor]:
    """Somebody with the page open; whatever the browser complained about fails the test."""
    found = Visitor(
        browser, f"http://127.0.0.1:{gateway.admin_port}", viewport={"width": 1280, "height": 800}
    )
    yield found
    found.close()
    assert found.complaints == []
    assert found.foreign == []


@pytest.fixture
def page(visitor: Visitor) -> Page:
    return visitor.page


def go(page: Page, name: str) -> None:
    """Open a page, and return once it shows what it is about."""
    page.goto(f"/console/{name}")
    expect(page.locator("#content > *").first).to_be_visible()


def is_harmless(page: Page) -> bool:
    """Say whether nothing of a name or text became part of the page but as text."""
    return bool(
        page.evaluate("!document.querySelector('img, #content script, #content [onerror], dialog script')")
    )


def test_the_overview_tells_when_the_last_callback_came_and_that_all_is_well(page: Page) -> None:
    """First the apps, then one word with its causes, then figures; they are live."""
    go(page, "")

    expect(page.locator("#content > *").first).to_contain_text("App 1400000000: last callback")
    state = page.locator("#content > .notice")
    expect(state).to_contain_text("4 events of sink strict are parked")
    expect(state.locator("> .level")).to_have_text("amber")
    expect(page.get_by_role("heading", name="Callbacks", exact=True)).to_be_visible()
    expect(page.get_by_role("row", name="exits takes events 21")).to_be_visible()


def test_the_overview_is_live(page: Page, gateway: Gateway) -> None:
    """A callback shows within seconds, without a reload."""
    go(page, "")
    stored = page.locator("section.card", has_text="stored since the start")
    before = stored.inner_text()
    leave(gateway, 900)

    expect(stored).not_to_have_text(before)
    expect(stored).to_contain_text("stored since the start")


def test_the_overview_leads_to_what_is_parked(page: Page) -> None:
    """A cause that can be mended here has a link to where."""
    go(page, "")
    page.get_by_role("link", name="Go there").click()

    expect(page.locator("h1")).to_have_text("Dead letters")


def test_who_left_by_a_click_on_a_name(page: Page) -> None:
    """A click on a member shows only that one; the address holds the choice."""
    go(page, "exits")
    page.get_by_role("button", name="Who left u7: show only these").click()

    expect(page.locator("tbody").last.locator("tr")).to_have_count(1)
    assert "member=u7" in page.url
    page.go_back()
    expect(page.get_by_role("button", name="Who left u8: show only these")).to_be_visible()


def test_who_left_by_the_form_with_days(page: Page) -> None:
    """From and to are days, both with all their hours; the chart has one bar a day."""
    go(page, "exits")
    page.get_by_label("From (UTC)").fill("2022-12-10")
    page.get_by_label("To", exact=True).fill("2022-12-12")
    page.get_by_role("button", name="Show", exact=True).click()

    expect(page.get_by_role("img", name="Member exits a day from 2022-12-10 to 2022-12-12")).to_be_visible()
    expect(page.locator(".chart rect")).to_have_count(3)


def test_who_left_as_a_file(page: Page) -> None:
    """The link gives a CSV file of the same choice."""
    go(page, "exits")
    page.get_by_role("searchbox", name="Who left").fill("u3")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("1 found")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    text = Path(download.value.path()).read_text("utf-8-sig")

    assert download.value.suggested_filename == "member-exits.csv"
    assert len(text.splitlines()) == 2
    assert ",'@TGS#1,Public,u3,quit,u3," in text


def test_nothing_found_is_said(page: Page) -> None:
    """An empty list is a sentence."""
    page.goto("/console/exits?group=none")

    expect(page.locator("main .notice", has_text="No member exit matches.")).to_be_visible()


def test_live_events_with_a_filter(page: Page, gateway: Gateway) -> None:
    """What comes is added while the page is open, if it matches."""
    go(page, "events")
    page.get_by_label("Subject").fill("group/@TGS#live")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("Nothing has matched yet")).to_be_visible()
    leave(gateway, 901)
    leave(gateway, 902, GroupId="@TGS#live")

    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("group/@TGS#live")


def test_an_event_opens_without_what_people_wrote(page: Page) -> None:
    """The raw body is there, its text is not, neither in the page nor in what came over the wire."""
    bodies: list[str] = []
    page.on(
        "response", lambda answer: bodies.append(answer.text()) if "/api/events/one/" in answer.url else None
    )
    page.goto("/console/events?type=im.group.message.sent")
    page.get_by_role("button", name="Open event").first.click()

    expect(page.get_by_role("dialog")).to_contain_text('"From_Account": "jared"')
    expect(page.get_by_role("dialog")).to_contain_text("What people wrote is hidden")
    expect(page.get_by_role("dialog")).not_to_contain_text("eight")
    assert len(bodies) == 1
    assert "eight" not in bodies[0]


@pytest.mark.parametrize("name", [name for name in PAGES if name])
def test_names_from_strangers_stay_text(page: Page, name: str) -> None:
    """A script in the name of a group, member or operator is shown as it is, and does nothing."""
    go(page, name)
    if name in ("exits", "events", "dead"):
        expect(page.get_by_text(ATTACK).first).to_be_visible()

    assert is_harmless(page)


def test_a_text_with_a_script_stays_text(browser: Browser, tmp_path: Path) -> None:
    """Where texts are shown, the raw body too, they are shown as they came and do nothing."""
    gateway = Gateway(tmp_path, sinks=SINKS, console={"show_content": True})
    visitor = None
    try:
        gateway.start()
        say(gateway, 1)
        eventually(lambda: parked(gateway) == 1, "parked")
        visitor = Visitor(browser, f"http://127.0.0.1:{gateway.admin_port}")
        for name in ("events", "dead"):
            go(visitor.page, name)
            visitor.page.get_by_role("button", name="Open event").first.click()
            expect(visitor.page.get_by_role("dialog")).to_contain_text("<script>alert(2)</script>")
            assert is_harmless(visitor.page)
        assert visitor.complaints == []
    finally:
        if visitor is not None:
            visitor.close()
        gateway.close()


def test_the_policy_stops_what_would_get_through(page: Page, visitor: Visitor) -> None:
    """Even a page that were wrong could not run inline code, nor make markup of a string."""
    go(page, "")
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.append("window.ran = 1");
        document.body.append(script);
        try { document.getElementById("content").innerHTML = "<img src=x onerror='window.ran = 2'>"; } catch { window.refused = 1; }
    }""")

    assert page.evaluate("[window.ran, window.refused]") == [None, 1]
    assert visitor.complaints
    visitor.complaints.clear()


def test_a_parked_event_opens_with_its_history(page: Page) -> None:
    """Why, when, and the event without its text; Escape closes it and the focus is where it was."""
    go(page, "dead")
    button = page.get_by_role("button", name="Open event").first
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("transform")
    expect(page.get_by_role("dialog")).not_to_contain_text("eight")
    page.keyboard.press("Escape")

    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button).to_be_focused()


def test_parked_events_are_replayed_after_a_question(page: Page, gateway: Gateway) -> None:
    """The question says how many; Cancel does nothing; then they go back, and the log says so."""
    page.goto("/console/dead?sink=strict&type=im.group.message.sent")
    page.get_by_role("button", name="Replay all that match").click()
    expect(page.get_by_role("dialog")).to_contain_text("Replay 4 events?")
    page.get_by_role("button", name="Cancel").click()
    assert "Audit: replay" not in gateway.logs()
    page.get_by_role("button", name="Replay all that match").click()
    page.get_by_role("dialog").get_by_role("button", name="Replay", exact=True).click()

    expect(page.locator(".notice.green", has_text="4 events replayed.")).to_be_visible()
    assert "Audit: replay of parked events of sink strict" in gateway.logs()
    eventually(lambda: parked(gateway) == 4, "parked once more")


def test_one_parked_event_is_discarded_after_a_question(page: Page, gateway: Gateway) -> None:
    """Only the one that was opened, and only after the question."""
    eventually(lambda: parked(gateway) == 4, "all are parked")
    page.goto("/console/dead?sink=strict")
    expect(page.locator("tbody tr")).to_have_count(4)
    page.get_by_role("button", name="Open event").first.click()
    page.get_by_role("button", name="Discard this event").click()
    expect(page.get_by_role("dialog")).to_contain_text("Discard 1 event?")
    page.get_by_role("dialog").get_by_role("button", name="Discard", exact=True).click()

    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.locator(".notice.green", has_text="1 event discarded.")).to_be_visible()
    assert "Audit: purge of parked events of sink strict" in gateway.logs()


def test_a_range_is_published_again_after_a_dry_run(page: Page, gateway: Gateway) -> None:
    """First the counts; then a question that names the sinks that would write again; then it is done."""
    go(page, "journal")
    page.get_by_label("From position").fill("1")
    page.get_by_label("To position").fill("5")
    page.get_by_role("button", name="Count first (dry run)").click()
    expect(page.get_by_role("heading", name="Dry run: done")).to_be_visible()
    expect(page.get_by_text("Would publish 5 events of 5 callbacks (positions 1 to 5).")).to_be_visible()
    before = len(gateway.lines())
    page.get_by_role("button", name="Publish again …").click()
    expect(page.get_by_role("dialog")).to_contain_text(
        "Written again there, though it may be there already: audit"
    )
    page.get_by_role("dialog").get_by_role("button", name="Publish again").click()

    expect(page.get_by_role("heading", name="Replay: done")).to_be_visible()
    eventually(lambda: len(gateway.lines()) == before + 5, "written once more")
    assert "Audit: replay of the journal over the admin port" in gateway.logs()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with both tokens."""
    found = Gateway(tmp_path_factory.mktemp("guarded"), sinks=SINKS)
    found.change(["admin"], {"port": found.admin_port, "worker_port": found.worker_port, **TOKENS})
    try:
        found.start()
        say(found, 1)
        yield found
    finally:
        found.close()


@pytest.fixture
def stranger(browser: Browser, guarded: Gateway) -> Iterator[Page]:
    found = Visitor(browser, f"http://127.0.0.1:{guarded.admin_port}")
    yield found.page
    found.close()
    assert found.complaints == []


def log_in(page: Page, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")


def test_a_login_leads_back_and_may_act(stranger: Page) -> None:
    """Who has no cookie logs in, comes back to the page, and may log out again."""
    stranger.goto("/console/dead")
    log_in(stranger, "wrong")
    expect(stranger.get_by_role("alert")).to_have_text("this is neither admin.token nor admin.view_token")
    log_in(stranger, TOKENS["token"])
    expect(stranger.locator("h1")).to_have_text("Dead letters")
    expect(stranger.locator("#who")).to_contain_text("may act")
    assert stranger.evaluate("document.cookie") == ""
    stranger.get_by_role("button", name="Log out").click()
    expect(stranger.get_by_label("Token")).to_be_visible()
    stranger.goto("/console/")

    expect(stranger.get_by_label("Token")).to_be_visible()


def test_who_may_only_look_has_no_buttons_that_act(stranger: Page) -> None:
    """They are there, off, and the page says why; the gateway refuses them too."""
    stranger.goto("/console/")
    log_in(stranger, TOKENS["view_token"])
    expect(stranger.locator("#who")).to_contain_text("may only look")
    stranger.goto("/console/dead?sink=strict")
    expect(stranger.get_by_role("button", name="Replay all")).to_be_disabled()
    stranger.goto("/console/journal")
    expect(stranger.get_by_role("button", name="Count first (dry run)")).to_be_disabled()
    status = stranger.evaluate(
        "fetch('/api/journal/replay', {method: 'POST', headers: {'X-Gateway-Action': '1'}, body: '{\"first\":1}'}).then((a) => a.status)"
    )

    assert status == 403


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_accessible(page: Page, name: str, scheme: str) -> None:
    """axe finds nothing, in both colour schemes: names, roles, contrast, structure."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    go(page, name)
    found = Axe().run(page)

    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("name", ["events", "dead"])
def test_an_open_event_is_accessible(page: Page, name: str) -> None:
    """The dialog too."""
    go(page, name)
    page.get_by_role("button", name="Open event").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    found = Axe().run(page)

    assert found.violations_count == 0, found.generate_report()


def test_the_login_is_accessible(page: Page) -> None:
    """The first page that a stranger sees."""
    go(page, "login")
    found = Axe().run(page)

    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_fits_a_phone(page: Page, name: str) -> None:
    """At 360 pixels nothing but a table scrolls sideways."""
    page.set_viewport_size({"width": 360, "height": 740})
    go(page, name)

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_used_by_keyboard(page: Page, name: str) -> None:
    """The first stop skips to the content, and the page one is on is marked."""
    go(page, name)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")

    expect(page.locator("main")).to_be_focused()
    expect(page.locator("[aria-current=page]")).to_have_text(PAGES[name])


def test_a_gateway_that_is_gone_is_said(browser: Browser, tmp_path: Path) -> None:
    """The overview says that what it shows may be old, and goes on when the gateway is back."""
    gateway = Gateway(tmp_path)
    visitor = Visitor(browser, f"http://127.0.0.1:{gateway.admin_port}")
    try:
        process = gateway.start()
        go(visitor.page, "")
        gateway.stop(process)
        expect(visitor.page.get_by_role("alert")).to_contain_text("The gateway does not answer")
        gateway.start()
        expect(visitor.page.get_by_role("alert")).to_be_hidden()
    finally:
        visitor.close()
        gateway.close()
