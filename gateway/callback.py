"""What a request is: one function over plain values turns it into a Callback, a Probe, or Refused.

No I/O, no clock, nothing of the HTTP server: every front door shares ``decide``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway import answer
from gateway.errors import Refused
from gateway.event import parse_json
from gateway.query import parse_query, read_query
from gateway.replies import Reply
from gateway.signature import verify_sign


# Why tuples: one of each is made for every callback, and a frozen dataclass takes four times as long.
class Callback(NamedTuple):
    """One accepted request, as the journal keeps it."""

    app_id: str
    """SDKAppID, decimal digits."""
    query: str
    """The raw query string without ``Sign``, still percent-encoded."""
    body: bytes
    """The body's own bytes; a JSON object, unless the caller was verified and sent something else."""
    peer: str
    """Address of the caller."""
    received_ms: int
    """Unix time in milliseconds."""
    verified: bool
    """True when a token's Sign was checked and matched."""
    id_recipe: int
    """Version of the rules that derive the event id (``normalise.ID_RECIPE`` at the time of receipt)."""
    id_window_s: int
    """``journal.id_window_s`` at the time of receipt."""


class Accepted(NamedTuple):
    """Store ``callback``, then answer 200 with ``answer``."""

    callback: Callback
    answer: bytes
    command: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Answer 200 with ``answer``; nothing is stored."""

    answer: bytes = answer.OK


@dataclass(frozen=True, slots=True)
class AppRule:
    """What is known of one app."""

    app_id: str
    path: str  # decoded
    tokens: tuple[str, ...]
    answers: Mapping[str, Reply] = field(default_factory=dict)
    """Fixed answers by command."""
    is_signed: bool = False
    """A Sign is asked for even when no token is left: the app had one."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything a decision depends on beside the request."""

    apps: Mapping[str, AppRule]
    paths: frozenset[str]
    signature_window_s: int
    id_recipe: int
    id_window_s: int


class Head(NamedTuple):
    """A request whose line and headers are acceptable, waiting for its body."""

    app: AppRule | None
    query: str
    params: Mapping[str, str]
    has_command: bool
    verified: bool
    refusal: Refused | None
    """Why it is refused unless it turns out to be a probe."""


def decide(
    rules: Rules, method: str, path: str, query: str, encoding: str, body: bytes, peer: str, now_ms: int
) -> Accepted | Probe:
    """Say what to do with one whole request; raise Refused with a reason of ``answer.REFUSALS``.

    *path* is decoded, *query* as it came, *encoding* the Content-Encoding ("" for none), *now_ms* Unix time.
    """
    head = decide_head(rules, method, path, query, encoding, now_ms)
    return head if isinstance(head, Probe) else decide_body(rules, head, body, peer, now_ms)


def decide_head(rules: Rules, method: str, path: str, query: str, encoding: str, now_ms: int) -> Head | Probe:
    """Judge what stands before the body, so that a stranger's body need not be read.

    A POST without a command in its query may be a probe, which only its body tells: its refusal waits.
    """
    if path not in rules.paths:
        raise Refused("not_found", _right_path(rules, query))
    params, kept = read_query(query)
    has_command = bool(params.get("callbackcommand") or params.get("command"))
    if method not in ("GET", "HEAD", "POST") or (method != "POST" and has_command):
        raise Refused("method_not_allowed")
    if method != "POST":
        return Probe()
    if encoding.lower() not in ("", "identity"):
        raise Refused("encoded_body")
    app: AppRule | None = None
    verified = False
    refusal: Refused | None = None
    try:
        app = _app(rules, path, params)
        verified = _verify(rules, app, params, now_ms)
    except Refused as error:
        if has_command:
            raise
        refusal = error
    return Head(app, kept, params, has_command, verified, refusal)


def decide_body(rules: Rules, head: Head, body: bytes, peer: str, now_ms: int) -> Accepted | Probe:
    """Judge the body of a request whose head was acceptable."""
    if not head.has_command and not body.strip():
        return Probe()
    parsed: dict[str, Any] = {}
    try:
        parsed = parse_json(body)
    except ValueError:
        # Why kept when verified: the sender means it, so it is ours to look at; a stranger's noise is not.
        if head.refusal is None and not head.verified:
            raise Refused("malformed_body") from None
    else:
        if not head.has_command and not parsed:
            return Probe()
    if head.refusal is not None:
        raise head.refusal
    assert head.app is not None
    callback = Callback(
        head.app.app_id, head.query, body, peer, now_ms, head.verified, rules.id_recipe, rules.id_window_s
    )
    command, is_legacy = command_of(head.params, parsed)
    reply = head.app.answers.get(command)
    told = answer.accepted(command, parsed, is_legacy=is_legacy, reply=reply)
    return Accepted(callback, told, command)


def command_of(params: Mapping[str, str], body: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the command (query before body, "" when neither has one) and whether the sender is a legacy one.

    Legacy senders name it ``command`` in the query and not at all in the body.
    """
    in_query = params.get("callbackcommand")
    if in_query:
        return in_query, False
    in_body = body.get("CallbackCommand")
    in_body = in_body if isinstance(in_body, str) else ""
    legacy = params.get("command")
    if legacy:
        return legacy, not in_body
    return in_body, False


def _app(rules: Rules, path: str, params: Mapping[str, str]) -> AppRule:
    app = rules.apps.get(params.get("sdkappid", ""))
    if app is None:
        raise Refused("unknown_app")
    if app.path != path:
        raise Refused("unknown_app", _explain(app))
    return app


def _verify(rules: Rules, app: AppRule, params: Mapping[str, str], now_ms: int) -> bool:
    if not app.tokens and not app.is_signed:
        return False
    given, request_time = params.get("sign"), params.get("requesttime")
    verify_sign(given, request_time, app.tokens, now_ms // 1000, rules.signature_window_s)
    return True


def _right_path(rules: Rules, query: str) -> str:
    try:
        app = rules.apps.get(parse_query(query).get("sdkappid", ""))
    except Refused:
        return ""
    return _explain(app) if app else ""


def _explain(app: AppRule) -> str:
    return (
        f"callbacks of app {app.app_id} come to another path than {app.path}, which its configuration names"
    )
