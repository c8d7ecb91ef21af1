"""Finds the queue that refuses what is published, without a copy for the others at each try.

RabbitMQ nacks an event as soon as one of its queues refuses it; the others have it by then, and nobody says
which one it was. So each suspected queue gets one event alone, by its sink's own exchange, and as long as it
refuses that, nothing is published to all.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence

from gateway.broker import Unconfirmed
from gateway.broker.rabbitmq.publish import Message
from gateway.metrics import Metrics
from gateway.topology import SinkTopology, Topology

_log = logging.getLogger(__name__)
_MEANINGS = {
    "nacked": "it refuses them: does a policy limit its length, with reject-publish?",
    "deadline": "it confirms nothing: has it lost most of its nodes?",
}


class Refusals:
    """What is known of queues that refuse; kept over connections."""

    def __init__(
        self, topology: Topology, publish: Callable[[Message], Awaitable[None]], metrics: Metrics
    ) -> None:
        """Take *publish*, which returns once one message is confirmed."""
        self._topology = topology
        self._publish = publish
        self._refuses = metrics.sink_refuses
        self._suspects: dict[str, str] = {}
        """Sink → why its queue refuses (a key of the meanings), empty while that is not known."""
        for sink in topology.sinks:
            self._refuses.labels(sink.name).set(0)

    def note(self, routing_key: str) -> None:
        """Suspect the queues that an event with *routing_key* goes to: one of them did not take it."""
        takers = self._topology.takers(routing_key)
        if not any(self._suspects.get(sink.name) for sink in takers):
            self._suspects |= {sink.name: "" for sink in takers if sink.name not in self._suspects}

    async def try_first(self, messages: Sequence[Message]) -> None:
        """Return once each suspect has taken the first of *messages* that it would get, alone.

        Raises Unconfirmed when one refuses, Unavailable when the connection is gone.
        """
        refusing = []
        for name in list(self._suspects):
            sink = self._topology.sink(name)
            message = next((one for one in messages if sink in self._topology.takers(one.routing_key)), None)
            if message is None:
                continue
            try:
                await self._publish(dataclasses.replace(message, exchange=sink.exchange))
            except Unconfirmed as fault:
                if fault.reason == "no_rights":
                    return self._give_up()
                if fault.reason not in _MEANINGS:
                    raise
                self._note_refusal(sink, fault.reason)
                refusing.append((sink.place, fault.reason))
            else:
                self._clear(sink)
        if refusing:
            queues = ", ".join(queue for queue, _ in refusing)
            raise Unconfirmed(refusing[0][1], f"{queues}: {_MEANINGS[refusing[0][1]]}")
        return None

    def _note_refusal(self, sink: SinkTopology, reason: str) -> None:
        if self._suspects[sink.name] != reason:
            self._suspects[sink.name] = reason
            self._refuses.labels(sink.name).set(1)
            _log.error(
                "Queue %s takes no events, so those for all sinks wait on disk; %s",
                sink.place,
                _MEANINGS[reason],
            )

    def _clear(self, sink: SinkTopology) -> None:
        if self._suspects.pop(sink.name, ""):
            self._refuses.labels(sink.name).set(0)
            _log.info("Queue %s takes events again", sink.place)

    def _give_up(self) -> None:
        """Say as much as is known where we may not publish to a single sink."""
        queues = [self._topology.sink(name).place for name in self._suspects]
        self._suspects.clear()
        _log.error(
            "One of these queues takes no events, so those for all sinks wait on disk: %s."
            " Which one can't be tried without the right to write to im.sink.<name>",
            ", ".join(queues),
        )
