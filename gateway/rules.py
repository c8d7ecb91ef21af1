"""From the configuration to what a decision about a request depends on."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from gateway.callback import AppRule, Rules
from gateway.config import Config
from gateway.normalise import ID_RECIPE
from gateway.redact import Redaction
from gateway.replies import Reply


def redactions_of(config: Config) -> dict[str, Redaction]:
    """Return what each app's events may not show, by app id."""
    return {
        app_id: Redaction.of(app.redact, app.redact_key.get_secret_value())
        for app_id, app in config.apps.items()
    }


def rules_of(
    config: Config, from_files: Mapping[str, tuple[str, ...]] | None = None, before: Rules | None = None
) -> Rules:
    """Return the rules of *config* and the tokens *from_files*; an app's own answers go before those for all.

    An app that asked for a Sign in the rules *before* goes on asking for one, whatever tokens are left.
    """
    tokens = {
        app_id: (*(one.get_secret_value() for one in app.tokens), *(from_files or {}).get(app_id, ()))
        for app_id, app in config.apps.items()
    }
    signed = {app_id for app_id, rule in before.apps.items() if rule.is_signed} if before else set()
    apps = {
        app_id: AppRule(
            app_id=app_id,
            path=unquote(app.path),
            tokens=tokens[app_id],
            is_signed=bool(tokens[app_id]) or app_id in signed,
            answers={
                command: Reply(**dict(told)) for command, told in {**config.answers, **app.answers}.items()
            },
        )
        for app_id, app in config.apps.items()
    }
    return Rules(
        apps=apps,
        paths=frozenset(app.path for app in apps.values()),
        signature_window_s=config.listen.signature_window_s,
        id_recipe=ID_RECIPE,
        id_window_s=config.journal.id_window_s,
    )
