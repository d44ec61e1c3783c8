"""Owns the reading of a JetStream stream between two bounds, without taking anything from it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import difflib
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from stages import kit

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

Position = int | dt.datetime | None
"""A sequence, a time, or neither."""

_BATCH = 100
_WAIT_S = 2.0
_CONNECT_S = 5.0
_IDLE_S = 30.0
_NAMES = "$JS.API.STREAM.NAMES"
_SUBJECT = "$.subject"


class Away(kit.Transient):
    """The server of messages can't be reached at the moment."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the NATS server can't be reached: {reason}")


class NotPermitted(kit.NotAllowed):
    """The server does not let this user read."""

    def __init__(self, said: str) -> None:
        super().__init__(
            f"the NATS server refuses: {said}",
            hint="its permissions say which subjects may be read",
            path=_SUBJECT,
        )


class NoStream(kit.DataFault):
    """No stream has this name, or keeps this subject."""

    def __init__(self, subject: str, name: str | None, names: list[str]) -> None:
        near = difflib.get_close_matches(name or "", names, n=3)
        shown = ", ".join(sorted(names)[:20]) or "none"
        super().__init__(
            f"there is no stream {name!r}" if name else f"no stream keeps the subject {subject!r}",
            hint="did you mean " + " or ".join(map(repr, near)) + "?"
            if near
            else f"the streams are: {shown}",
            path="$.stream" if name else _SUBJECT,
        )


class ManyStreams(kit.DataFault):
    """Several streams keep messages of this subject."""

    def __init__(self, subject: str, names: list[str]) -> None:
        super().__init__(
            f"several streams keep the subject {subject!r}: {', '.join(sorted(names)[:20])}",
            hint="name one of them in stream",
            path="$.stream",
        )


class SecretStream(kit.NotAllowed):
    """A stream is the bucket of secrets, which are referred to and not read as data."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the stream {name!r} keeps secrets and is not read",
            hint="where a stage takes a secret, refer to it by its key, as {'kv': KEY}",
            path="$.stream",
        )


class WorkQueue(kit.DataFault):
    """A stream is a work queue: reading from it would take work from others."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the stream {name!r} is a work queue, which can't be read without taking from it",
            hint="let a second stream mirror it, and read that",
            path="$.stream",
        )


class Held(NamedTuple):
    """What a stream holds of a subject from a position on."""

    name: str
    created: str
    subjects: list[str]
    last: int
    """The sequence of the subject's last message; 0 if there is none."""
    last_time: dt.datetime | None


@contextlib.asynccontextmanager
async def connected(services: kit.Services) -> AsyncIterator[Reader]:
    """Connect; whatever goes wrong with the server becomes a fault."""
    import nats.errors

    from stages.ingest import connections

    complaints: list[str] = []

    async def note(error: Exception) -> None:
        complaints.append(str(error))

    try:
        async with asyncio.timeout(_CONNECT_S):
            client = await connections.connect(services, note)
    except (nats.errors.Error, TimeoutError, OSError, ValueError) as error:
        raise _fault(error, complaints) from error
    try:
        yield Reader(client, f"KV_{services.secrets_bucket}")
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise _fault(error, complaints) from error
    finally:
        await client.close()


def _fault(error: Exception, complaints: list[str]) -> kit.StageFault:
    """Tell a refusal, which the server sends aside or leaves unanswered, from an absence."""
    for said in [str(error), *complaints]:
        if "authorization violation" in said.lower() or "permissions violation" in said.lower():
            return NotPermitted(said.removeprefix("nats: ")[:200])
    return Away((complaints[-1] if complaints else str(error))[:200] or type(error).__name__)


class Reader:
    """Reads streams over a connection."""

    def __init__(self, client: Client, secrets: str) -> None:
        self._client = client
        self._secrets = secrets
        """The stream behind the bucket of secrets."""
        self._js = client.jetstream(timeout=_CONNECT_S)

    async def last(self, stream: str, subject: str) -> bytes | None:
        """Give the last message of a subject; None where there is none, or a mark of deletion."""
        import nats.js.errors

        try:
            found = await self._js.get_last_msg(stream, subject)
        except nats.js.errors.NotFoundError:
            return None
        return None if (found.headers or {}).get("KV-Operation") else found.data

    async def find(self, subject: str, name: str | None) -> Held:
        """Find the stream; raise NoStream, ManyStreams, SecretStream or WorkQueue."""
        import nats.js.errors

        chosen = name or await self._keeping(subject)
        if chosen == self._secrets:
            raise SecretStream(chosen)
        try:
            info = await self._js.stream_info(chosen)
        except (nats.js.errors.NotFoundError, ValueError) as error:
            raise NoStream(subject, chosen, await self._names()) from error
        if info.config.retention == "workqueue":
            raise WorkQueue(chosen)
        last, when = await self._last(chosen, subject)
        created = info.created.isoformat() if info.created else ""
        return Held(chosen, created, list(info.config.subjects or []), last, when)

    async def _keeping(self, subject: str) -> str:
        names = await self._names(subject)
        if not names:
            raise NoStream(subject, None, await self._names())
        if len(names) > 1:
            raise ManyStreams(subject, names)
        return names[0]

    async def _names(self, subject: str | None = None) -> list[str]:
        request = json.dumps({"subject": subject} if subject else {}).encode()
        answer = await self._client.request(_NAMES, request, timeout=_CONNECT_S)
        return list(json.loads(answer.data).get("streams") or [])

    async def _last(self, name: str, subject: str) -> tuple[int, dt.datetime | None]:
        import nats.js.errors

        try:
            found = await self._js.get_last_msg(name, subject)
        except nats.js.errors.NotFoundError:
            return 0, None
        return int(found.seq or 0), found.time

    async def count(self, held: Held, subject: str, start: Position) -> int:
        """Count the subject's messages from a position on."""
        name, pending = await self._consumer(held, subject, start)
        await self._forget(held, name)
        return pending

    async def _consumer(self, held: Held, subject: str, start: Position) -> tuple[str, int]:
        """Make a consumer that acknowledges nothing, and count what it would deliver."""
        from nats.js import api

        config = api.ConsumerConfig(
            name=f"ingest-{uuid.uuid4().hex}",
            ack_policy=api.AckPolicy.NONE,
            filter_subject=subject,
            inactive_threshold=_IDLE_S,
            mem_storage=True,
            num_replicas=1,
            **_policy(start),
        )
        info = await self._js.add_consumer(held.name, config=config)
        return str(info.name), int(info.num_pending or 0)

    async def _forget(self, held: Held, name: str) -> None:
        import nats.errors

        with contextlib.suppress(nats.errors.Error, TimeoutError):  # it ends by itself, idle
            await self._js.delete_consumer(held.name, name)

    async def messages(
        self, held: Held, subject: str, start: Position, check: Callable[[], None]
    ) -> AsyncGenerator[Msg, None]:
        """Give the messages in order, each once, until there is none left; `check` may raise.

        Where one is missing the consumer is made anew behind the last that came. (The client's own
        ordered consumer would begin again at the stream's start.)
        """
        pending = 1
        while pending:
            check()
            name, pending = await self._consumer(held, subject, start)
            try:
                async with contextlib.aclosing(self._delivered(held, name, pending)) as delivered:
                    async for message in delivered:
                        start = message.metadata.sequence.stream + 1
                        pending = message.metadata.num_pending
                        yield message
            finally:
                await self._forget(held, name)

    async def _delivered(self, held: Held, name: str, pending: int) -> AsyncGenerator[Msg, None]:
        """Give what a consumer delivers, until it is all, none comes or one is missing."""
        subscription = await self._js.pull_subscribe_bind(consumer=name, stream=held.name)
        expected = 1
        try:
            while pending:
                for message in await subscription.fetch(min(_BATCH, pending), timeout=_WAIT_S):
                    if message.metadata.sequence.consumer != expected:
                        return
                    expected += 1
                    pending = message.metadata.num_pending
                    yield message
        except TimeoutError:
            return
        finally:
            await subscription.unsubscribe()


def _policy(start: Position) -> dict[str, Any]:
    from nats.js import api

    if start is None:
        return {"deliver_policy": api.DeliverPolicy.ALL}
    if isinstance(start, int):
        return {"deliver_policy": api.DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": start}
    when = start.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    return {"deliver_policy": api.DeliverPolicy.BY_START_TIME, "opt_start_time": when}
