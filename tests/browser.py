"""A real headless Chromium, of the distribution, for tests of the console."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.services.programs import CHROMIUM

# Why without: its sandbox does not start for root, and the only site it visits is ours.
_ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
TIMEOUT_MS = 20_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield the browser; where it is missing the test is skipped here, and fails on CI."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM.path(), args=_ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """One page of a browser that notes whatever it complains about, violated policies included."""

    def __init__(self, browser: Browser, origin: str, **context: object) -> None:
        self._context = browser.new_context(base_url=origin, reduced_motion="reduce", **context)  # type: ignore[arg-type]
        self._context.set_default_timeout(TIMEOUT_MS)
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self._note_request(request.url, origin))

    def _note(self, message: ConsoleMessage) -> None:
        # Why not a refused request: pages show what the gateway refuses, and tests provoke it.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)

    def _note_request(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "blob:", "data:")):
            self.foreign.append(url)

    def close(self) -> None:
        self._context.close()
