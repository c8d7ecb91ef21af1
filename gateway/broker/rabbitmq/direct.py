"""A channel that hands deliveries over at once: aiormq starts a task for each, a tenth of a worker's time."""

from __future__ import annotations

import aiormq
from aiormq import exceptions as amqp
from pamqp import commands as spec
from pamqp.header import ContentHeader


class DirectChannel(aiormq.Channel):
    """For callbacks that only take note: while one runs, nothing else of the channel is read."""

    async def _on_deliver_frame(self, frame: spec.Basic.Deliver) -> None:
        header = await self._get_frame()
        if not isinstance(header, ContentHeader):
            raise amqp.InvalidFrameError(header)
        message = await self._read_content(frame, header)
        take = self.consumers.get(frame.consumer_tag or "")
        if take is not None:
            await take(message)
