"""The sinks of kind python, and of kinds that installed packages bring: a class of the user's own.

docs/python-sink.md says what such a class looks like. Its object is made when the sink is opened, and
nothing that it does can lose an event.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.config import PluginSink, PythonSink, plugins
from gateway.errors import ConfigError, Poison, Unavailable
from gateway.event import Event
from gateway.logs import where
from gateway.sinks import Failures
from gateway.sinks.calls import Calls

_CLOSE_S = 5.0
_log = logging.getLogger(__name__)


class Own:
    """Satisfies ``gateway.sinks.Sink`` by a class that has ``write``, and may have ``open`` and ``close``."""

    def __init__(self, config: PythonSink | PluginSink, name: str) -> None:
        """Import the class; ConfigError when it can't be found or used, or does not take its options."""
        if isinstance(config, PythonSink):
            key, cls = f"sinks.{name}.target", _find(config.target, f"sinks.{name}.target")
        else:
            key, cls = f"sinks.{name}.kind", _load(config.kind, f"sinks.{name}.kind")
        _check(cls, key)
        self._class = cls.__name__
        self._make = _maker(cls, config.options, f"sinks.{name}.options")
        self._name = name
        self._calls = Calls(name)
        self._object: Any = None

    async def open(self) -> None:
        """Make the object, the first time, and open it. Raises Unavailable."""
        if self._object is None:
            self._object = self._calls.make(self._make, self._class)
        if hasattr(self._object, "open"):
            try:
                await self._calls.call(self._object.open)
            except Poison as why:
                raise Unavailable(
                    "sink_error", "open() raised Poison, which says something of an event"
                ) from why

    async def write(self, events: Sequence[Event]) -> Failures:
        """Hand over *events*. Raises Unavailable, and Poison as the object does."""
        if self._object is None:
            raise Unavailable("not_open", f"sink {self._name} is not open.")
        if not events:
            return {}
        return self._failures(await self._calls.call(self._object.write, list(events)), len(events))

    async def close(self) -> None:
        """Close the object; what goes wrong is logged."""
        made, self._object = self._object, None
        if hasattr(made, "close"):
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._calls.call(made.close)
            except (Poison, Unavailable, TimeoutError) as error:
                detail = getattr(error, "detail", "") or f"not within {_CLOSE_S:g} s"
                _log.warning("Sink %s: its class can't be closed (%s)", self._name, detail)

    def _failures(self, result: Any, count: int) -> Failures:
        if result is None:
            return {}
        is_ours = isinstance(result, Mapping) and all(
            type(at) is int and 0 <= at < count and isinstance(why, (Poison, Unavailable))
            for at, why in result.items()
        )
        if not is_ours:
            raise Unavailable(
                "bad_result",
                f"write() returned a {type(result).__name__} that is no {{place in events: Poison or"
                " Unavailable}; return None when all are written",
            )
        return dict(result)


def _find(target: str, key: str) -> Any:
    module_name, _, class_name = target.partition(":")
    if not {"", os.getcwd()} & set(sys.path):
        # Why last: a file here that is named like an installed module must not take its place.
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{key}: there is no module {error.name}; it is looked for among the installed packages and"
                f" in the folder that the gateway runs in, {os.getcwd()}"
            ) from error
        raise ConfigError(f"{key}: {module_name} imports {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}: {module_name} can't be imported ({_why(error)})") from error
    if not hasattr(module, class_name):
        found = [name for name, one in vars(module).items() if inspect.isclass(one) and hasattr(one, "write")]
        raise ConfigError(
            f"{key}: {getattr(module, '__file__', None) or module_name} has no class {class_name};"
            f" classes with write() there: {', '.join(found) or 'none'}"
        )
    return getattr(module, class_name)


def _load(kind: str, key: str) -> Any:
    entry = plugins()[kind]
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        package = entry.dist.name if entry.dist is not None else "its package"
        raise ConfigError(f"{key}: {entry.value} of {package} can't be imported ({_why(error)})") from error


def _check(cls: Any, key: str) -> None:
    """Raise ConfigError when *cls* is not what can be a sink."""
    if not inspect.isclass(cls):
        raise ConfigError(f"{key}: names a {type(cls).__name__}, not a class")
    for method, given, line in (
        ("write", 1, "async def write(self, events)"),
        ("open", 0, "async def open(self)"),
        ("close", 0, "async def close(self)"),
    ):
        found = getattr(cls, method, None)
        if found is None and method != "write":
            continue
        try:
            inspect.signature(found).bind(*[None] * (given + 1))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            what = "has no" if found is None else "has another"
            raise ConfigError(f"{key}: {cls.__name__} {what} method {method}: {line}") from None


def _maker(cls: type, options: Mapping[str, Any], key: str) -> Callable[[], Any]:
    """Return what makes the object: ``cls(**options)``, or ``cls(cls.Options(**options))``."""
    record = getattr(cls, "Options", None)
    if inspect.isclass(record) and issubclass(record, BaseModel):
        try:
            checked = record.model_validate(dict(options))
        except ValidationError as error:
            faults = (
                f"{'.'.join([key, *map(str, one['loc'])])}: {one['msg'][0].lower()}{one['msg'][1:]}"
                for one in error.errors(include_input=False, include_url=False)
            )
            raise ConfigError("\n".join(faults)) from None
        return lambda: cls(checked)
    try:
        inspect.signature(cls).bind(**options)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}; {cls.__name__} takes {inspect.signature(cls)}") from None
    return lambda: cls(**options)


def _why(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"SyntaxError in {os.path.basename(error.filename or '?')}, line {error.lineno}"
    return where(error)
