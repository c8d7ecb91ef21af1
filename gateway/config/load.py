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
from pydantic import SecretStr, ValidationError

from gateway.config.admin import Admin
from gateway.config.answers import Answer
from gateway.config.base import MEANT, Section
from gateway.config.endpoints import place
from gateway.config.records import App, Broker, Config, Journal, Listen, Log
from gateway.config.sinks import FAMILIES, KINDS, HttpSink, PluginSink, PythonSink
from gateway.config.tracing import Tracing
from gateway.errors import ConfigError

ENV_PREFIX = "GATEWAY__"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
# Why up to the last @ there is: drivers take a password with an unescaped @ or / in it.
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^/\s:]*:)\S*@", re.IGNORECASE)
_PAIR_PASSWORD = re.compile(
    r"(?P<head>\b(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE
)
_NAMED = re.compile(r"\b(alias|tag) '.*'")
_MERGE = "tag:yaml.org,2002:merge"
_MAPPING = "must be a mapping: keys with values below it"
_SHAPES: Mapping[str, str] = {
    "model_type": _MAPPING, "model_attributes_type": _MAPPING, "dict_type": _MAPPING,
    "tuple_type": "must be a list, like [a, b]", "path_type": "must be the path of a file",
    "union_tag_not_found": f"needs a kind: {', '.join(KINDS)}",
}  # fmt: skip
_URLS = ("dsn", "url")  # secrets that are printed with their passwords masked, because the rest says where
_SECTIONS: Mapping[str, type[Section]] = {
    "listen": Listen, "answers": Answer, "admin": Admin, "apps": App, "journal": Journal, "broker": Broker,
    "log": Log, "tracing": Tracing,
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
            raise ConfigError(f"{path}: not readable as YAML: {_yaml_fault(error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{name}: the top level must be a mapping of sections, like 'listen:'")
    try:
        raw = _expand(raw, environ, "")
    except RecursionError:
        raise ConfigError(f"{name}: an alias (*) stands inside what it names") from None
    _override(raw, environ)
    _fill_blanks(raw)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        faults = error.errors()
        inside = {fault["loc"][:-1] for fault in faults}  # Why: a list without its wrong items is too short
        told = [one for one in faults if one["type"] != "too_short" or one["loc"] not in inside]
        raise ConfigError("\n".join(f"{name}: {_explain(fault, raw)}" for fault in told)) from None


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
        for key, value in sink:
            if key in _URLS and isinstance(value, SecretStr):
                plain["sinks"][name][key] = mask_url(value.get_secret_value())
        if isinstance(sink, HttpSink):
            plain["sinks"][name]["url"] = f"{place(sink.url)}/***"
        if isinstance(sink, (PythonSink, PluginSink)):
            # Why all text: nobody but the class knows which of it is a secret.
            plain["sinks"][name]["options"] = _without_text(sink.options)
    return plain


def _without_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_text(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_text(inner) for inner in value]
    return value if value is None or isinstance(value, (bool, int, float)) else "***"


def mask_url(text: str) -> str:
    """Return *text* with each password in it (``://user:…@``, ``password=…``) replaced by ``***``."""
    return _PAIR_PASSWORD.sub(r"\g<head>***", _URL_PASSWORD.sub(r"\g<head>***@", text))


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            # Why str(key): 1400000000 and "1400000000" are one app.
            if isinstance(key, (str, int)) and str(key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(str(key))
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

    return _plain_text(_VARIABLE.sub(fill, value), path[:-1])


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
            is_tree = _plain_text(text, f"environment: {name}").lstrip()[:1] in ("[", "{")
            place[leaf] = _expand(yaml.load(text, _Loader), environ, f"{name}.") if is_tree else text  # noqa: S506
        except (yaml.YAMLError, RecursionError):
            raise ConfigError(f"environment: {name}: not readable as a YAML list or mapping") from None


def _plain_text(text: str, path: str) -> str:
    """Return *text*; ConfigError when it holds what no path, host or password can."""
    if "\0" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise ConfigError(f"{path}: holds a NUL character or bytes that are no UTF-8")
    return text


def _fill_blanks(raw: dict[str, Any]) -> None:
    """Make ``listen:`` with nothing below it the section with its defaults; an app and a sink likewise."""
    for name in (*_SECTIONS, "sinks"):
        if name in raw and raw[name] is None:
            raw[name] = {}
    for name in ("apps", "sinks", "answers"):
        if isinstance(raw.get(name), dict):
            raw[name] = {key: {} if value is None else value for key, value in raw[name].items()}


def _yaml_fault(error: Exception) -> str:
    """Say what is wrong and where, without the line itself, which may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + _NAMED.sub(r"\1", error.problem or "")


def _explain(fault: Any, raw: Any) -> str:
    loc = fault["loc"]
    # Behind a sink's name stand its family and its kind, which are no keys.
    is_sink = loc[:1] == ("sinks",) and loc[2:3] in [(family,) for family in FAMILIES]
    if is_sink:
        loc = (*loc[:2], *loc[3 if loc[2] == "plug-in" else 4 :])
    if loc[-1:] == ("[key]",) and fault["type"] != "extra_forbidden":
        loc = loc[:-1]  # what pydantic adds where the key itself is wrong
    where = [str(part) for part in loc]
    if where[:2] == ["broker", "url"]:
        del where[2:]  # what pydantic calls the types it has tried
    path = ".".join(where) or "top level"
    if fault["type"] == "extra_forbidden":
        allowed = _keys_at(fault["loc"][:-1])
        near = get_close_matches(where[-1], allowed, 1, 0.5)
        hint = f"did you mean {'.'.join([*where[:-1], near[0]])}? " if near else ""
        return f"{path}: unknown key; {hint}Allowed here: {', '.join(allowed)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    message = MEANT.get(fault.get("ctx", {}).get("pattern", ""), message)
    if fault["type"] == "value_error" and message.startswith(("apps.", "admin.")):
        return message
    if fault["type"] in _SHAPES:  # Why without the value: it stands where a secret may have been meant
        return f"{path}: {_SHAPES[fault['type']]}"
    secret = any(word in path for word in ("token", "dsn", "url", ".secrets", ".headers"))
    value = fault.get("input")
    shown = "" if secret or isinstance(value, (dict, list)) else f" (it is {mask_url(repr(value))})"
    return f"{path}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    model: type[Section] = Config
    for part in location:
        model = (
            KINDS.get(part)
            or (PluginSink if part == "plug-in" else None)
            or (Answer if part == "answers" else None)
            or (_SECTIONS.get(part, model) if model is Config else model)
        )
    return sorted(model.model_fields)
