"""Owns the reading of who is there: the cards that agents leave in the presence bucket."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterable

import nats.js.errors
from nats.aio.client import Client as Nats

from protocol import codec, subjects, swarm


def present(cards: Iterable[swarm.AgentCard], now: dt.datetime) -> list[swarm.AgentCard]:
    """Choose the agents that are there, by name: those whose own time says so.

    The expiry of the bucket only cleans up: what it still holds may be of an agent long dead.
    """
    oldest = now - dt.timedelta(seconds=swarm.GONE_AFTER_S)
    found = [card for card in cards if card.state != "stopped" and card.at >= oldest]
    return sorted(found, key=lambda card: card.agent)


async def read(nc: Nats, names: subjects.Subjects, now: dt.datetime) -> list[swarm.AgentCard]:
    """Give the agents that are there."""
    js = nc.jetstream()
    try:
        info = await js.stream_info(names.presence_stream, subjects_filter=names.all_presence_keys)
    except nats.js.errors.NotFoundError:
        return []
    keys = list(info.state.subjects or {})
    cards = await asyncio.gather(*(_card(nc, names, key) for key in keys))
    return present((card for card in cards if card is not None), now)


async def _card(nc: Nats, names: subjects.Subjects, key: str) -> swarm.AgentCard | None:
    with contextlib.suppress(nats.js.errors.NotFoundError, codec.ProtocolError):
        kept = await nc.jetstream().get_last_msg(names.presence_stream, key, direct=True)
        return codec.decode(kept.data or b"", swarm.AgentCard)
    return None
