"""Owns the audit log: each command is permitted, done and written down."""

from __future__ import annotations

import asyncio
import collections
import datetime as dt
import functools
import hashlib
import itertools
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from agent.bus import endpoints, senders
from protocol import codec, commands, subjects, trail

log = structlog.get_logger()

QUEUE = "queue"
PROMPT = "prompt"
"""Is refused before anything is asked for; what it asks for has the name of that."""
ACTIONS = {
    "request": "submit",
    QUEUE: QUEUE,
    "cancel": "cancel",
    "resume": "resume",
    "approve": "approve",
    "control": "control",
    "rollback": "rollback",
    "undeploy": "undeploy",
}
"""What is asked for, by the name of the endpoint or stream: everything that changes something."""
MOST_WAITING = 10_000
"""How many records wait while the bus is away; of more, the oldest are in the agent's log alone."""

_AT_ONCE = 64
_RETRY_S = 0.5
_CLOSE_S = 5.0
_MAX_CLAIM = 128


class AuditLog:
    """Writes down who asked for what, behind the answer."""

    def __init__(
        self,
        agent_id: str,
        nc: Client,
        names: subjects.Subjects,
        known: senders.Senders,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._agent_id = agent_id
        self._js = nc.jetstream()
        self._names = names
        self._senders = known
        self._clock = clock
        self._waiting: collections.deque[tuple[str, trail.AuditRecord]] = collections.deque()
        self._woken = asyncio.Event()

    async def received(
        self, name: str, message: Any, kind: type[Any], max_bytes: int
    ) -> tuple[Any, endpoints.Caller]:
        """Read a command and who signed it; a refusal is written down.

        Raises codec.ProtocolError or endpoints.Refusal.
        """
        action = ACTIONS.get(name)
        command, caller = None, endpoints.caller(message.headers)
        if action is None:
            return await endpoints.read(name, message, kind, max_bytes)
        caller = _digested(message, caller)
        try:
            command, _ = await endpoints.read(name, message, kind, max_bytes)
            stored_at = message.metadata.timestamp if action == QUEUE else None
            return command, await self._senders.identified(message, caller, stored_at=stored_at)
        except (codec.ProtocolError, endpoints.Refusal) as refused:
            self._note(action, command, caller, refused.problem.code)
            raise

    async def prompted(self, message: Any, caller: endpoints.Caller) -> endpoints.Caller:
        """Say who signed a prompt; a refusal is written down, and raised."""
        caller = _digested(message, caller)
        try:
            return await self._senders.identified(message, caller)
        except endpoints.Refusal as refused:
            self._note(PROMPT, None, caller, refused.problem.code)
            raise

    async def watched(
        self, action: str, handler: endpoints.Handler, command: Any, caller: endpoints.Caller
    ) -> Any:
        """Do what is asked if its sender may, and write down what came of it."""
        outcome = "internal"
        try:
            self._senders.permit(action, caller)
            reply = await handler(command, caller)
            outcome = trail.DONE
        except Exception as error:
            outcome = endpoints.problem_of(error).code
            raise
        finally:
            self._note(action, command, caller, outcome)
        return reply

    def watching(self, action: str, handler: endpoints.Handler) -> endpoints.Handler:
        """Make a handler that is watched."""
        return functools.partial(self.watched, action, handler)

    def watched_endpoint(self, endpoint: endpoints.Endpoint) -> endpoints.Endpoint:
        """Make an endpoint whose handler is watched under its name."""
        handler = self.watching(endpoint.name, endpoint.handler)
        return msgspec.structs.replace(endpoint, handler=handler)

    async def serve(self) -> None:
        """Store what is written down until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            await self._store_all()

    async def close(self) -> None:
        """Store what is left."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._store_all()
        except TimeoutError:
            log.critical("audit.lost", records=len(self._waiting), hint="they are in this log")

    def _note(self, action: str, command: Any, caller: endpoints.Caller, outcome: str) -> None:
        record = trail.AuditRecord(
            at=self._clock(),
            agent=self._agent_id,
            action=action,
            outcome=outcome,
            signed_by=caller.signed_by or trail.UNSIGNED,
            key=caller.key,
            claimed=_claimed(command),
            run_id=_run_id(command),
            stage=getattr(command, "stage", None),
            digest=caller.digest or _digest(codec.encode(command)),
        )
        # The agent's log has it at once, whatever becomes of the bus or of this process.
        log.info("command.answered", **msgspec.to_builtins(record))
        self._waiting.append((uuid.uuid4().hex, record))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            log.critical("audit.lost", records=1, hint="it is in this log")
        self._woken.set()

    async def _store_all(self) -> None:
        while self._waiting:
            batch = list(itertools.islice(self._waiting, _AT_ONCE))
            try:
                await asyncio.gather(*(self._store(*each) for each in batch))
            except (nats.errors.Error, TimeoutError, OSError) as error:
                log.warning("audit.not_stored", error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
                continue  # whatever of it is stored is not stored twice
            stored = {message_id for message_id, _ in batch}
            while self._waiting and self._waiting[0][0] in stored:
                self._waiting.popleft()

    async def _store(self, message_id: str, record: trail.AuditRecord) -> None:
        await self._js.publish(
            self._names.audit(record.action),
            codec.encode(record),
            stream=self._names.audit_stream,
            headers={"Nats-Msg-Id": message_id},
        )


def _digested(message: Any, caller: endpoints.Caller) -> endpoints.Caller:
    return msgspec.structs.replace(caller, digest=_digest(message.data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _claimed(command: Any) -> str | None:
    name = getattr(command, "requester", None) or getattr(command, "by", None)
    return str(name)[:_MAX_CLAIM] if name else None


def _run_id(command: Any) -> str | None:
    if isinstance(command, commands.PipelineRequest):
        return subjects.run_id_for(command.requester, command.request_id)
    return getattr(command, "run_id", None)
