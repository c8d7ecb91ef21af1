"""What a call costs, told so that two runs agree: steps of the interpreter, and time beside a yardstick's."""

import gc
import json
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

RECORDED = Path(__file__).with_name("recorded.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
MORE_STEPS = 1.05
MORE_TIME = 1.3
_TEXT = json.dumps({f"Name{at}": ["a value of a usual length", at] for at in range(20)})


def steps(call: Callable[[], Any]) -> int:
    """Return how many bytecodes *call* takes, and functions in C it calls; the same in every run.

    Why both: bytecodes alone miss work that moves into a loop over C functions.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "c_call"

    gc.disable()
    sys.setprofile(profile)
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
        gc.enable()
    return count


def yardstick() -> None:
    """Do what a stage does, in Python and in C: the time of it says how fast this machine is now."""
    found = {}
    for name, value in json.loads(_TEXT).items():
        found[name.lower()] = sha256(f"{name}{value[1]}".encode()).hexdigest()
    "&".join(f"{name}={value}" for name, value in found.items()).partition("&")


def least_s(call: Callable[[], Any], rounds: int) -> float:
    """Return the shortest of so many calls: what disturbs only ever adds."""
    found = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - began)
    return found


def recorded() -> dict[str, dict[str, float]]:
    """Return steps and ratio by stage, as they were recorded with this version of Python; {} for none."""
    return json.loads(RECORDED.read_text()).get(VERSION, {}) if RECORDED.exists() else {}


def record(found: dict[str, dict[str, float]]) -> None:
    """Write *found* down for this version of Python."""
    known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    known[VERSION] = known.get(VERSION, {}) | found
    RECORDED.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
