"""What of a changed configuration can be taken while the gateway runs: and what differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from gateway.config.records import Config
from gateway.errors import ConfigError

_SECTIONS = ("answers", "apps")
_LISTEN = frozenset(
    ("allow_networks", "answer_deadline_ms", "before_when_full", "body_timeout_s", "drain_s",
     "header_timeout_s", "keepalive_timeout_s", "max_body_bytes", "max_connections_per_peer",
     "max_header_bytes", "max_headers", "max_inflight", "max_inflight_mb", "retry_after_s",
     "signature_window_s", "trusted_proxies")
)  # fmt: skip
_MISSING = object()


def changed_keys(old: Config, new: Config) -> list[str]:
    """Return the keys whose values differ, like ``listen.port``, never the values: they may be secrets.

    What stands in one of them only is named once: ``apps.1400000001``.
    """
    return list(_differences(old.model_dump(), new.model_dump(), ""))


def with_changes(running: Config, new: Config) -> Config:
    """Return *running* with what of *new* can be taken without a restart.

    Raises ConfigError where the two do not fit together: an app without a token, say, whose *new*
    ``listen.host`` is loopback and whose present one is not.
    """
    listen = {name: getattr(new.listen, name) for name in _LISTEN}
    sections = {name: getattr(running, name) for name in Config.model_fields}
    sections |= {name: getattr(new, name) for name in _SECTIONS}
    sections["listen"] = running.listen.model_copy(update=listen)
    sections["log"] = running.log.model_copy(update={"level": new.log.level})
    try:
        return Config(**sections)
    except ValidationError as error:
        said = "\n".join(str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors())
        raise ConfigError(f"together with what counts until a restart: {said}") from None


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old is _MISSING or new is _MISSING or old != new:
            yield path
        return
    for key in dict.fromkeys((*old, *new)):
        place = f"{path}.{key}" if path else str(key)
        yield from _differences(old.get(key, _MISSING), new.get(key, _MISSING), place)
