"""The register of faults: each is a function over a Scene that is under load."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.crash import faults as package
from tests.crash.scene import Scene

Inject = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which something breaks."""

    name: str
    """``part: what happens``; the first words of the table's row."""
    inject: Inject
    """Breaks and mends it, ``scene.rounds`` times."""
    rounds: int
    """How often in the long form."""
    short: int
    """How often in the short form, which is a part of the tests; 0: only in the long form."""
    round_s: float = 30.0
    """A round that takes longer is a failure."""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Configuration beside the usual."""
    starts: bool = True
    """Gateway, worker and load run before the fault; else it starts them itself."""
    keeps_order: bool = True
    """First arrivals of a partition key are in the order of their positions."""
    is_alone: bool = False
    """Can be done only to a gateway that is one process: the fault is inside it, or goes by its one journal."""
    must_lose: bool = False
    """A control: shows with a setup that is not ours that a loss would be seen."""


_FAULTS: list[Fault] = []


def fault(
    name: str, *, rounds: int = 1, short: int = 1, round_s: float = 30.0, starts: bool = True,
    keeps_order: bool = True, must_lose: bool = False, is_alone: bool = False, **sections: Mapping[str, Any],
) -> Callable[[Inject], Inject]:  # fmt: skip
    """Register the function as a fault."""

    def register(inject: Inject) -> Inject:
        ways = (starts, keeps_order, is_alone, must_lose)
        _FAULTS.append(Fault(name, inject, rounds, short, round_s, sections, *ways))
        return inject

    return register


def all_faults() -> list[Fault]:
    """Return every fault, by the order of the modules and of their functions."""
    for module in sorted(one.name for one in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"{package.__name__}.{module}")
    return list(_FAULTS)
