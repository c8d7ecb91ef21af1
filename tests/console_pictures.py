"""Makes the pictures of docs/console.md: ``python -m tests.console_pictures``; needs Chromium."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

from tests.browser import Visitor, chromium
from tests.gateway_process import Gateway, eventually
from tests.test_console_browser import SINKS, leave, say

FOLDER = Path(__file__).parent.parent / "docs/images"
GROUPS = ("@TGS#2J4SZEAEL", "@TGS#1K7XQWERT", "@TGS#3MNBVCXZA")
PEOPLE = ("jared", "tommy", "anna", "leckie", "wei", "sofia", "omar", "kim")
DAY_MS = 86_400_000


def fill(gateway: Gateway) -> None:
    """Send three weeks of exits, and four messages that are parked."""
    now_ms = time.time_ns() // 1_000_000
    chance = random.Random(7)
    for number in range(160):
        who, by = chance.choices(PEOPLE, k=2)
        leave(
            gateway, number, GroupId=GROUPS[number % 3], ExitMemberList=[{"Member_Account": who}],
            Operator_Account=by, ExitType="Quit" if who == by else "Kicked",
            EventTime=now_ms - int(chance.triangular(0, 20, 6)) * DAY_MS - number * 60_000,
        )  # fmt: skip
    for number in range(4):
        say(gateway, number, "see you", GROUPS[number % 3])
    eventually(lambda: gateway.metrics().get("gateway_sink_dead_events{sink=strict}") == 4, "messages parked")


def go_on(gateway: Gateway) -> None:
    """Send some for two minutes, so that the lines have something to show."""
    chance = random.Random(3)
    for second in range(120):
        for number in range(int(chance.triangular(0, 9, 2 + second // 30))):
            leave(
                gateway,
                1000 + 10 * second + number,
                GroupId=GROUPS[number % 3],
                EventTime=time.time_ns() // 1_000_000,
            )
        time.sleep(1)


def shoot(page: Page, name: str) -> None:
    page.wait_for_timeout(1500)
    page.screenshot(path=FOLDER / f"console-{name}.png")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    gateway = Gateway(Path(tempfile.mkdtemp()), sinks=SINKS)
    try:
        gateway.start()
        fill(gateway)
        go_on(gateway)
        with chromium() as browser:
            origin = f"http://127.0.0.1:{gateway.admin_port}"
            visitor = Visitor(browser, origin, viewport={"width": 1100, "height": 720})
            page = visitor.page
            for name in ("", "exits", "dead"):
                page.goto(f"/console/{name}")
                shoot(page, name or "overview")
            page.emulate_media(color_scheme="dark")
            page.goto("/console/events?type=im.group.message.*")
            page.get_by_role("button", name="Open event").first.click()
            shoot(page, "events")
            page.set_viewport_size({"width": 390, "height": 800})
            page.goto("/console/")
            shoot(page, "phone")
            page.emulate_media(color_scheme="light")
            page.set_viewport_size({"width": 1100, "height": 720})
            page.goto("/console/journal")
            page.get_by_label("From position").fill("1")
            page.get_by_role("button", name="Count first").click()
            page.get_by_role("heading", name="Dry run: done").scroll_into_view_if_needed()
            shoot(page, "journal")
            visitor.close()
    finally:
        gateway.close()


if __name__ == "__main__":
    main()
