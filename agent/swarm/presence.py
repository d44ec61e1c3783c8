"""Owns how the agent shows that it is there: its card, to whoever listens and whoever looks."""

from __future__ import annotations

from collections.abc import Callable

import nats.errors
import structlog
from nats.aio.client import Client

from protocol import codec, subjects, swarm

log = structlog.get_logger(__name__)


class Presence:
    """Shows the agent's card: on core NATS to listeners, in a bucket to all others."""

    def __init__(
        self, nc: Client, names: subjects.Subjects, card: Callable[[], swarm.AgentCard]
    ) -> None:
        self._nc = nc
        self._js = nc.jetstream()
        self._names = names
        self._card = card

    async def show(self) -> swarm.AgentCard:
        """Show the card as it is now; a bus that is away misses it."""
        card = self._card()
        data = codec.encode(card)
        try:
            await self._nc.publish(self._names.presence(card.agent), data)
            await self._js.publish(
                self._names.presence_key(card.agent), data, stream=self._names.presence_stream
            )
        except (nats.errors.Error, TimeoutError) as error:
            log.warning("presence.not_shown", error=type(error).__name__)
        return card
