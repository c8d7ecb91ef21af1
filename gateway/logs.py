"""Where log lines go and how they look: standard error, for people or as JSON, by structlog."""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path

import structlog

from gateway.config import Log


def where(error: BaseException | None) -> str:
    """Name *error*'s class and the places it came through, innermost last; never its text.

    The text of an exception may hold what a stranger sent, or a row of somebody's database.
    """
    if error is None:
        return "unknown"
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {places or '?'}"


def configure(config: Log, process: str = "") -> None:
    """Send all logging through structlog; call once, before anything else runs.

    ``auto`` is text on a terminal and one JSON object a line elsewhere. *process* is named in each line.
    """
    as_json = config.format == "json" or (config.format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if process:
        shared.append(lambda logger, method, line: {**line, "process": process})
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    set_level(config)
    # Why silent: both log whole messages and stack traces of what we report in words ourselves.
    for name in ("aiormq", "aio_pika", "aiohttp"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def set_level(config: Log) -> None:
    """Write what ``log.level`` asks for, from now on."""
    logging.getLogger("gateway").setLevel(config.level.upper())
