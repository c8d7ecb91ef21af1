"""An event's ``data`` without ``raw``: what the body holds, in our names, as the app lets it be shown. Pure.

The general rules (``names``) serve every command; a row of the catalogue refines them (``fields``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.about import NO_PLAN, Ready, Show, name_people
from gateway.fields import fill, keep
from gateway.messages import mentions_all
from gateway.names import nested
from gateway.places import account_names
from gateway.redact import Redaction


def data_of(
    command: str,
    ready: Ready | None,
    body: Mapping[str, Any],
    around: Mapping[str, Any] | None,
    redaction: Redaction,
) -> dict[str, Any]:
    """Return the ``data`` of the event that *body* becomes; *around*: what stands around a push item."""
    mend = ready.row.mend if ready is not None else None
    if not redaction.is_active:
        data = _filled(command, ready, body, around)
        if mend is not None:
            mend(data)
        return data
    accounts = account_names(body, around) if redaction.accounts else frozenset()
    data = redaction.data(_filled(command, ready, body, around, redaction.account), accounts)
    if mend is not None:
        # Why again: what was filled in has a name of its own, which may be one of the rule's.
        mend(data)
        data = redaction.data(data, accounts)
    return data


def _filled(
    command: str,
    ready: Ready | None,
    body: Mapping[str, Any],
    around: Mapping[str, Any] | None,
    shown: Show | None = None,
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    message: dict[str, Any] = {}
    plan = ready.plan if ready is not None else NO_PLAN
    rest = fill(plan, body, data, message)
    if ready is not None:
        if message:
            if "GroupAtInfo" in body and "mentions" in message:
                message["mentions_all"] = mentions_all(body["GroupAtInfo"])
            data["message"] = message
        if ready.row.is_uniform:
            name_people(ready, body, data, shown)
    in_body = body.get("CallbackCommand")
    if isinstance(in_body, str) and in_body != command:
        data["callback_command"] = in_body
    if rest:
        keep(plan, rest, data, group_type=command.startswith("Group."))
    if around:
        data["envelope"] = nested(dict(around))
    return data
