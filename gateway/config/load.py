"""From the YAML file and the environment to the records, with errors that name the full key path.

The only module that reads either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gateway.config.records import (
    Admin,
    App,
    Broker,
    Config,
    Journal,
    JsonlSink,
    Listen,
    Log,
    PostgresSink,
    Section,
    SqliteSink,
)
from gateway.errors import ConfigError

ENV_PREFIX = "GATEWAY__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^/@\s:]*:)[^@/\s]*@")
_PAIR_PASSWORD = re.compile(r"(?P<head>\bpassword\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
_KINDS: Mapping[str, type[Section]] = {"jsonl": JsonlSink, "sqlite": SqliteSink, "postgres": PostgresSink}
_SECTIONS: Mapping[str, type[Section]] = {
    "listen": Listen, "admin": Admin, "apps": App, "journal": Journal, "broker": Broker, "log": Log,
}  # fmt: skip


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read the YAML file *path* (None: defaults only), then ``GATEWAY__A__B=value`` from *environ*.

    Raises ConfigError with one line a fault.
    """
    raw: Any = {}
    name = str(path) if path else "environment"
    if path is not None:
        try:
            raw = yaml.load(path.read_text("utf-8"), _Loader) or {}  # noqa: S506 - a SafeLoader subclass
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name another file with --config") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: the top level must be a mapping of sections, like 'listen:'")
    raw = _expand(raw, environ, "")
    _override(raw, environ)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{name}: {_explain(fault, raw)}" for fault in error.errors())) from None


def masked(config: Config) -> dict[str, Any]:
    """Return *config* as plain values for printing: tokens and passwords are ``***``."""

    def mask(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mask(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [mask(inner) for inner in value]
        return mask_url(value) if isinstance(value, str) else value

    plain: dict[str, Any] = mask(config.model_dump(mode="json"))
    for name, sink in config.sinks.items():
        if isinstance(sink, PostgresSink):
            plain["sinks"][name]["dsn"] = mask_url(sink.dsn.get_secret_value())
    return plain


def mask_url(text: str) -> str:
    """Return *text* with each password in it (``://user:…@``, ``password=…``) replaced by ``***``."""
    return _PAIR_PASSWORD.sub(r"\g<head>***", _URL_PASSWORD.sub(r"\g<head>***@", text))


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int)) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            if isinstance(key, (str, int)):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _expand(value: Any, environ: Mapping[str, str], path: str) -> Any:
    if isinstance(value, dict):
        # Why str(key): YAML reads an app id as a number.
        return {str(key): _expand(inner, environ, f"{path}{key}.") for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, environ, f"{path}{at}.") for at, inner in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name not in environ and default is None:
            raise ConfigError(
                f"{path[:-1]}: the environment has no {name}; set it, or give a default: ${{{name}:-…}}"
            )
        return environ.get(name) or default or ""

    return _VARIABLE.sub(fill, value)


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        *parents, leaf = name.removeprefix(ENV_PREFIX).lower().split("__")
        place = raw
        for part in parents:
            inner = place.setdefault(part, {})
            if inner is None:
                inner = place[part] = {}
            if not isinstance(inner, dict):
                raise ConfigError(f"environment: {name}: {part} is a value and has no keys")
            place = inner
        try:
            place[leaf] = yaml.safe_load(text) if text.lstrip()[:1] in ("[", "{") else text
        except yaml.YAMLError as error:
            raise ConfigError(f"environment: {name}: not readable as a YAML list or mapping") from error


def _explain(fault: Any, raw: Any) -> str:
    where = [str(part) for part in fault["loc"] if part not in _KINDS]
    path = ".".join(where) or "top level"
    if fault["type"] == "extra_forbidden":
        allowed = _keys_at(fault["loc"][:-1])
        near = get_close_matches(where[-1], allowed, 1, 0.5)
        hint = f"did you mean {'.'.join([*where[:-1], near[0]])}? " if near else ""
        return f"{path}: unknown key; {hint}Allowed here: {', '.join(allowed)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error" and message.startswith(("apps.", "admin.")):
        return message
    secret = any(word in path for word in ("token", "dsn", "url"))
    value = fault.get("input")
    shown = "" if secret or isinstance(value, (dict, list)) else f" (it is {value!r})"
    return f"{path}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    model: type[Section] = Config
    for part in location:
        model = _KINDS.get(part) or (_SECTIONS.get(part, model) if model is Config else model)
    return sorted(model.model_fields)
