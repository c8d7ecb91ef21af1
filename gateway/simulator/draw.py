"""Draws the parts of a body: accounts, groups, texts, times. Pure: everything comes from one seeded source.

Two kinds of value: *pooled* ones come again, as people and groups do; *fresh* ones hold the number of
the callback, so that no two callbacks tell the same fact.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
_NAMES = (
    "leckie",
    "jared",
    "tommy",
    "bob",
    "peter",
    "brennan",
    "tandy",
    "Jonh",
    "user",
    "id",
    "李雷",
    "müller",
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TEXTS = (
    "red packet", "hello", "你好，世界", "早上好 ☀️", "ok 👍🏽", "see https://example.com/a?b=1&c=2#d // on",
    "¿qué tal?", "Привет", "مرحبا", "こんにちは", "line one\nline two", 'a "quoted" \\ text', "𠮷野家",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "tab\there", "<b>not markup</b>", "",
)  # fmt: skip
_CUSTOM = ("your cloud custom data", '{"k":"v","n":1}', '{"msg":"这是自定义透传内容"}', "", "🙂" * 8)
_MIX = 2_654_435_761  # odd, so multiplying by it permutes the 32-bit numbers


class Draw:
    """What one callback draws from; ``number`` is set for each."""

    def __init__(self, seed: int, groups: int, base_ms: int) -> None:
        """Take *groups*, how many there are, and *base_ms*, the Unix time in ms of the first fact."""
        self._random = Random(seed)
        self._mark = format(seed & 0xFFFFFFFF, "x")
        self._base_ms = base_ms
        self._groups = [self._group_id(at) for at in range(groups)]
        self._accounts = [self._account(at) for at in range(500)]
        self._first_seq = self._random.getrandbits(32)
        self._fresh = 0
        self._needs_fresh = False
        self.number = 0
        self.is_community = False
        self.group_id = ""
        """The group that this callback is about."""

    def begin(self, number: int, *, needs_fresh: bool, is_community: bool) -> None:
        """Go on to callback *number*; *needs_fresh*: nothing but an account can tell it from others."""
        self.number = number
        self._fresh = 0
        self._needs_fresh = needs_fresh
        self.is_community = is_community
        self.next_message()
        group = self.one_of(self._groups)
        self.group_id = f"@TGS#_{group[:40]}" if is_community else group

    def next_message(self) -> None:
        """Go on to another message that this callback names, at most four of them."""
        self._fresh += 1
        # Unique while number < 2**30; wraps around as the sender's sequences do.
        self.msg_seq = (self._first_seq + self.number * 4 + self._fresh % 4) % 2**32
        self.msg_random = self.msg_seq * _MIX % 2**32
        self.msg_time_s = self.now_ms() // 1000

    @property
    def msg_key(self) -> str:
        return f"{self.msg_seq}_{self.msg_random}_{self.msg_time_s}"

    # --- choice -------------------------------------------------------------------------------------------

    def below(self, limit: int) -> int:
        """Return an integer from 0 to *limit* - 1."""
        return int(self._random.random() * limit)

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[int(self._random.random() * len(choices))]

    def happens(self, share: float) -> bool:
        """Say True in *share* of the cases."""
        return self._random.random() < share

    # --- people and places --------------------------------------------------------------------------------

    def account(self) -> str:
        """Return a pooled account, or a fresh one where that is needed."""
        if self._needs_fresh:
            self._needs_fresh = False
            return self.fresh_account()
        return self._accounts[int(self._random.random() * len(self._accounts))]

    def fresh_account(self) -> str:
        """Return an account that no other callback of this seed names; at most 32 bytes."""
        self._fresh += 1
        return f"u{self._mark}_{self.number}_{self._fresh}"

    def fresh_accounts(self, at_most: int) -> list[str]:
        return [self.fresh_account() for _ in range(1 + self.below(at_most))]

    def number_account(self) -> int:
        """Return an account as some products write it: an integer above 2**53."""
        return 144_115_200_000_000_000 + int(self._random.random() * 2**40)

    def fresh_topic(self) -> str:
        """Return a topic of this callback's group; at most 96 bytes."""
        self._fresh += 1
        return f"{self.group_id}@TOPIC#_{self._mark}{self.number}_{self._fresh}"

    def room(self) -> str:
        return f"room-{self._mark}-{self.below(len(self._groups)) + 1}"

    def official(self) -> str:
        return f"@TOA#_{self._mark}_{self.below(len(self._groups)) + 1}"

    # --- numbers and times --------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return the time of this fact: later for each callback, never the same."""
        return self._base_ms + self.number * 3

    # --- texts --------------------------------------------------------------------------------------------

    def text(self) -> str:
        return self.one_of(_TEXTS)

    def custom(self) -> str:
        return self.one_of(_CUSTOM)

    def fresh_name(self, what: str) -> str:
        """Return a name of at most 30 bytes that only this callback has."""
        return f"{what} {self.number} {self.one_of(('', '群', '☕', 'é'))}".rstrip()

    def url(self, kind: str) -> str:
        return f"https://cos.example.com/{self.hex(12)}.{kind}"

    def hex(self, digits: int) -> str:
        return format(self._random.getrandbits(digits * 4), f"0{digits}x")

    def uuid(self) -> str:
        text = self.hex(32)
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def fresh_base64(self) -> str:
        """Return 32 bytes as base64, with ``/``, ``+`` and ``=``, that only this callback has."""
        raw = self.number.to_bytes(8, "big") + b"\xfb\xff\xfe" + self._random.randbytes(21)
        return base64.b64encode(raw).decode()

    def address(self) -> str:
        """Return a client's address, from the blocks that are reserved for documentation."""
        if self.happens(0.1):
            return f"2001:db8::{self.hex(4)}"
        return f"203.0.113.{1 + self.below(254)}"

    def _group_id(self, at: int) -> str:
        if at % 7 == 6:  # Why: custom ids may hold nearly any printable ASCII
            return self.one_of(("my group ", "a/b#", "group's %", "g_")) + f"{self._mark}-{at}"
        return "@TGS#" + "".join(self.one_of(_LETTERS) for _ in range(6)) + _base32(at)

    def _account(self, at: int) -> str:
        kind = at % 5
        if kind == 0:
            return str(100_000 + self.below(2**32))
        return self.uuid()[:30] if kind == 1 else f"{self.one_of(_NAMES)}{at}"


def _base32(at: int) -> str:
    digits = ""
    while True:
        at, digit = divmod(at, 32)
        digits = _LETTERS[digit] + digits
        if not at:
            return digits
