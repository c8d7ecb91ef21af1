"""Topic patterns over routing keys, as a topic exchange reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache


@lru_cache(maxsize=4096)
def matches(pattern: str, routing_key: str) -> bool:
    """Say whether a topic exchange would route *routing_key* by *pattern* (``*`` one word, ``#`` any number).

    Source: AMQP 0-9-1, section 3.1.3.3, as RabbitMQ implements it.
    """
    return _matches(_words(pattern), _words(routing_key))


def narrowed(patterns: Sequence[str], apps: Sequence[str]) -> tuple[str, ...]:
    """Return patterns that match what *patterns* match of *apps*, and nothing else; no apps: all of them.

    A routing key ends in the app id, which is one word.
    """
    if not apps:
        return tuple(patterns)
    found = (one for pattern in patterns for app in apps for one in _of_app(_words(pattern), app))
    return tuple(dict.fromkeys(".".join(words) for words in found))


def _of_app(words: tuple[str, ...], app: str) -> Iterator[tuple[str, ...]]:
    """Yield the patterns that together match the keys that *words* match and whose last word is *app*."""
    *before, last = words or ("",)
    if last in ("*", app):
        yield (*before, app)
    elif last == "#":
        yield (*words, app)
        # Why: # may stand for no word at all; then the word before it is the last one.
        yield from _of_app(tuple(before), app)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(".")) if text else ()  # the empty key has no word, "a." has two


def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    # Why a row of reachable places instead of recursion: many # in one pattern would take exponential time.
    places = {0}
    for part in pattern:
        if part == "#":
            places = set(range(min(places), len(words) + 1)) if places else places
        else:
            places = {at + 1 for at in places if at < len(words) and part in ("*", words[at])}
    return len(words) in places
