"""Expressions over events in JMESPath (jmespath.org), checked when the configuration is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any

import jmespath
from jmespath.exceptions import LexerError, ParseError
from jmespath.functions import Functions
from jmespath.parser import ParsedResult
from pydantic import AfterValidator, BeforeValidator

MAX_EXPRESSION_CHARS = 10_000
MISFITS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What asking an expression raises where it does not fit the event: jmespath's own, and Python's below it."""


def compiled(text: str) -> ParsedResult:
    """Return the expression *text*; its ``search(event.attributes)`` gives the value, or raises MISFITS.

    Raises ValueError that says what is wrong, and where.
    """
    if len(text) > MAX_EXPRESSION_CHARS:
        raise ValueError(f"is longer than {MAX_EXPRESSION_CHARS} characters")
    try:
        expression: ParsedResult = jmespath.compile(text)
    except LexerError as error:
        raise ValueError(
            _wrong(f"{str(error.message).lower()} at character {error.lexer_position + 1}")
        ) from None
    except ParseError as error:
        at = f"at character {error.lex_position + 1}"
        what = f"unexpected {error.token_value!r} {at}" if error.token_value else f"it ends too early, {at}"
        raise ValueError(_wrong(what)) from None
    except RecursionError:
        raise ValueError(_wrong("too many levels")) from None
    except ValueError as error:
        raise ValueError(_wrong("it is empty" if not text else type(error).__name__)) from None
    for name, given in _calls(expression.parsed):
        _check_call(text, name, given)
    return expression


def _check_call(text: str, name: str, given: int) -> None:
    # Why here: jmespath itself looks at names and numbers of arguments when an event is there.
    found = re.search(rf"\b{re.escape(name)}\s*\(", text)
    place = f"at character {found.start() + 1}" if found else "in it"
    known = Functions.FUNCTION_TABLE.get(name)
    if known is None:
        near = get_close_matches(name, Functions.FUNCTION_TABLE, 1, 0.5)
        hint = f"; did you mean {near[0]}()?" if near else ""
        raise ValueError(_wrong(f"there is no function {name}(), {place}{hint}"))
    wanted = len(known["signature"])
    is_open = bool(known["signature"]) and bool(known["signature"][-1].get("variadic"))
    if given < wanted or (given > wanted and not is_open):
        least = "at least " if is_open else ""
        raise ValueError(_wrong(f"{name}() takes {least}{wanted} arguments and has {given}, {place}"))


def _calls(node: Any) -> Iterator[tuple[str, int]]:
    """Yield name and number of arguments of each function that is called in the parsed expression *node*."""
    todo = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, dict) and "type" in one:
            if one["type"] == "function_expression":
                yield str(one["value"]), len(one["children"])
            todo.extend(one.get("children", ()))


def _wrong(what: str) -> str:
    return f"is no JMESPath expression: {what}"


def _text(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        # Why: { and [ begin YAML's own mappings and lists.
        raise ValueError("must be text: put the expression in quotes")  # noqa: TRY004 - a fault for pydantic
    return value


def _checked(text: str) -> str:
    compiled(text)
    return text


Expression = Annotated[str, BeforeValidator(_text), AfterValidator(_checked)]
"""A configuration key that holds a JMESPath expression; it stays text there, for printing."""
