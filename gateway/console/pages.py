"""The pages of one shell, their scripts and a style sheet. They hold no data: anybody may see them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from aiohttp import web

_PAGES = {
    "": "Overview",
    "exits": "Who left",
    "events": "Live events",
    "dead": "Dead letters",
    "journal": "Journal",
}
_LOGIN = "login"
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# Why this strict: names of groups and texts of messages come from strangers. Nothing runs and nothing is
# fetched but the files of this package, and no string ever becomes markup (trusted types).
_CONTENT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": _CONTENT,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Why not kept: after an upgrade a page must not meet scripts of the release before.
    "Cache-Control": "no-cache",
}


class Pages:
    """The routes; everything is read once, at the start."""

    def __init__(self) -> None:
        folder = resources.files("gateway.console") / "static"
        self._files = {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}
        shell = self._files.pop("shell.html").decode()
        self._shells = {
            name: _shell(shell, name, title) for name, title in {**_PAGES, _LOGIN: "Log in"}.items()
        }

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        return [
            web.get("/", self._home),
            web.get("/console", self._home),
            web.get("/console/{page:[a-z]*}", self._page),
            web.get("/console/static/{name}", self._file),
        ]

    async def _home(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={**HEADERS, "Location": "/console/"})

    async def _page(self, request: web.Request) -> web.Response:
        page = self._shells.get(request.match_info["page"])
        if page is None:
            return web.Response(status=404, text="There is no such page.\n", headers=HEADERS)
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=HEADERS)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        content = self._files.get(name)
        if content is None:
            return web.Response(status=404, text="There is no such file.\n", headers=HEADERS)
        kind = _TYPES[name.rpartition(".")[2]]
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=HEADERS)


def _shell(shell: str, name: str, title: str) -> bytes:
    here = ' aria-current="page"'
    links = "".join(
        f'<li><a href="/console/{page}"{here if page == name else ""}>{label}</a></li>'
        for page, label in _PAGES.items()
    )
    filled = shell.replace("{{title}}", title).replace("{{links}}", links)
    return filled.replace("{{script}}", name or "overview").encode()
