"""Owns reading the audit log back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import nats.js.errors
from nats.aio.client import Client as Nats

from protocol import codec, subjects, trail

POLL_S = 1.0


class Stored(msgspec.Struct, frozen=True):
    """A record and its place in the log."""

    sequence: int
    record: trail.AuditRecord


async def read(
    nc: Nats,
    names: subjects.Subjects,
    *,
    action: str = "*",
    newest: int = 0,
    follow: bool = False,
) -> AsyncIterator[Stored]:
    """Read the log, oldest first, and go on without end to `follow` it.

    `newest` is how many records of whatever action are looked at, up to now; 0 is all of them.
    """
    state = (await nc.jetstream().stream_info(names.audit_stream)).state
    first = max(state.first_seq, state.last_seq - newest + 1 if newest else 1)
    while True:
        async for one in _stored(nc, names, action, first):
            first = one.sequence + 1
            yield one
        if not follow:
            return
        await asyncio.sleep(POLL_S)


async def _stored(
    nc: Nats, names: subjects.Subjects, action: str, first: int
) -> AsyncIterator[Stored]:
    js, subject = nc.jetstream(), names.audits_of(action)
    while True:
        try:
            found = await js.get_msg(names.audit_stream, first, subject, next=True)
        except nats.js.errors.NotFoundError:
            return
        first = int(found.seq or 0) + 1
        yield Stored(first - 1, codec.decode(found.data or b"", trail.AuditRecord))
