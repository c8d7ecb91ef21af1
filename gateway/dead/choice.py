"""Which parked events are meant, and what can be said of one without reading its body."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from gateway.broker import Delivery


@dataclass(frozen=True, slots=True)
class Choice:
    """Which parked events are meant; None means any."""

    type: str | None = None
    """``*`` and ``?`` stand for any text."""
    reason: str | None = None
    group: str | None = None
    """The subject, or what stands in it behind its kind: ``group/@TGS#1`` or ``@TGS#1``."""
    app: str | None = None
    id: str | None = None
    since_ms: int | None = None
    """Parked from this time on, Unix milliseconds."""
    until_ms: int | None = None
    """Parked before this time."""

    @property
    def is_open(self) -> bool:
        """Nothing was chosen: all parked events are meant."""
        return self == Choice()

    def takes(self, delivery: Delivery) -> bool:
        """Say whether *delivery* is meant; one without a time of parking is not, where time counts."""
        return (
            (self.id is None or delivery.message_id == self.id)
            and (self.reason is None or reason_of(delivery) == self.reason)
            and (self.app is None or app_of(delivery) == self.app)
            and (self.type is None or fnmatchcase(type_of(delivery), self.type))
            and (self.group is None or self.group in _names(group_of(delivery)))
            and self._takes_time(parked_ms(delivery))
        )

    def _takes_time(self, time_ms: int | None) -> bool:
        if time_ms is None:
            return self.since_ms is None and self.until_ms is None
        return (self.since_ms is None or time_ms >= self.since_ms) and (
            self.until_ms is None or time_ms < self.until_ms
        )


def type_of(delivery: Delivery) -> str:
    return delivery.type or delivery.routing_key.rpartition(".")[0]


def app_of(delivery: Delivery) -> str:
    return delivery.routing_key.rpartition(".")[2]


def group_of(delivery: Delivery) -> str:
    """Return the partition key, which is the event's subject."""
    return delivery.key


def reason_of(delivery: Delivery) -> str:
    return str(delivery.headers.get("reason", ""))


def parked_ms(delivery: Delivery) -> int | None:
    """Return when it was parked, Unix milliseconds; None when nobody wrote that down."""
    found = delivery.headers.get("parked_ms")
    return found if isinstance(found, int) else None


def _names(subject: str) -> tuple[str, str]:
    return subject, subject.partition("/")[2]
