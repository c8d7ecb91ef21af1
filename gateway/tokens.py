"""Tokens from files (``apps.<id>.tokens_file``), read again when the files change."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from gateway.config import App
from gateway.errors import ConfigError
from gateway.settled import Settled

_log = logging.getLogger(__name__)
_MOST_BYTES = 65_536


class TokenFiles:
    """What stands in the token files of all apps; ConfigError at once for one that can't be read.

    ``look`` reads what has changed and stands still. A file that can't be read any more leaves its last
    tokens in force; one without a token leaves none.
    """

    def __init__(self, apps: Mapping[str, App]) -> None:
        self.tokens: dict[str, tuple[str, ...]] = {}
        self._paths = {app_id: app.tokens_file for app_id, app in apps.items() if app.tokens_file is not None}
        self._watches = {app_id: Settled(path) for app_id, path in self._paths.items()}
        self._faulty: set[str] = set()
        faults = []
        for app_id, path in self._paths.items():
            try:
                self.tokens[app_id] = _read(path)
            except (OSError, ValueError) as error:
                faults.append(f"apps.{app_id}.tokens_file: {path}: {_in_words(error)}")
        if faults:
            raise ConfigError("\n".join(faults))

    def look(self) -> bool:
        """Read the files that have changed; say whether any app's tokens are others now."""
        changed = [app_id for app_id, path in self._paths.items() if self._look_at(app_id, path)]
        return bool(changed)

    def _look_at(self, app_id: str, path: Path) -> bool:
        watch = self._watches[app_id]
        if not watch.look():
            self._faulty.discard(app_id)
            return False
        try:
            tokens = _read(path)
        except (OSError, ValueError) as error:
            if app_id not in self._faulty:
                self._faulty.add(app_id)
                _log.error(
                    "apps.%s.tokens_file: %s: %s; the tokens read last stay in force",
                    app_id,
                    path,
                    _in_words(error),
                )
            return False
        self._faulty.discard(app_id)
        watch.take()
        if tokens == self.tokens[app_id]:
            return False
        self.tokens[app_id] = tokens
        if tokens:
            _log.info("apps.%s.tokens_file: read again, tokens in it: %d", app_id, len(tokens))
        else:
            _log.error("apps.%s.tokens_file: no token stands in it any more", app_id)
        return True


def _read(path: Path) -> tuple[str, ...]:
    # Why not blocking: opening a pipe would wait for its writer.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = os.read(file, _MOST_BYTES + 1)
    finally:
        os.close(file)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES // 1024} KiB, so it is no list of tokens")
    return _parse(data)


def _parse(data: bytes) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not a text in UTF-8") from None
    if "\0" in text:
        raise ValueError("holds a NUL character")
    lines = (line.strip() for line in text.splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def _in_words(error: Exception) -> str:
    return (error.strerror or "can't be read") if isinstance(error, OSError) else str(error)
