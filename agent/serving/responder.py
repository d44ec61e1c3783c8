"""Owns the serving host's subjects on the bus: predictions, and the commands of the agents."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from agent import tasks
from agent.bus import endpoints
from agent.serving import host, orders, replica
from protocol import codec, problems, serving, subjects

log = structlog.get_logger(__name__)

Answering = Callable[[Msg], Coroutine[Any, Any, None]]


class Responder:
    """Answers on the bus. No message stops it; no error leaves without a Problem."""

    def __init__(
        self, nc: Client, names: subjects.Subjects, serves: host.Host, told: orders.Orders
    ) -> None:
        self._nc = nc
        self._names = names
        self._host = serves
        self._orders = told
        self._subscriptions: list[Any] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen; return once the server knows of it."""
        table: list[tuple[str, type[msgspec.Struct], Callable[[Any], Awaitable[msgspec.Struct]]]]
        table = [
            ("deploy", serving.DeployModel, self._orders.deploy),
            ("halt", serving.HaltDeploy, self._orders.halt),
            ("rollback", serving.RollBack, self._orders.roll_back),
            ("undeploy", serving.Undeploy, self._orders.undeploy),
            ("list", serving.EndpointQuery, self._orders.listed),
        ]
        await self._listen(self._names.all_predictions, self._predict)
        await self._listen(self._names.all_outcomes, self._outcome)
        for action, kind, handler in table:
            await self._listen(self._names.serving(action), self._commanded(kind, handler))
        await self._nc.flush()

    async def close(self) -> None:
        """Hear no more."""
        await tasks.end(*self._calls)

    async def _listen(self, subject: str, answer: Answering) -> None:
        async def heard(message: Msg) -> None:
            # What takes a while must not hold up the rest.
            call = asyncio.create_task(answer(message), name="answer")
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

        taken = await self._nc.subscribe(subject, queue=subjects.SERVING, cb=heard)
        self._subscriptions.append(taken)

    async def _predict(self, message: Msg) -> None:
        sender = endpoints.caller(message.headers)
        name = self._names.read_predict(message.subject) or ""
        try:
            key = (message.headers or {}).get(serving.ASSIGNMENT_KEY, "")
            told, headers = await self._host.ask(name, (message.data, sender.content_type), key)
        except Exception as error:  # noqa: BLE001 - it is told to whoever asked
            await self._refuse(message, _problem(error), sender.content_type)
            return
        if told.number == replica.OK:
            answered = replica.answered_as(sender.content_type)
            await self._respond(message, told.body, answered, headers)
        else:
            problem = codec.decode(told.body, problems.Problem, _known(sender.content_type))
            await self._refuse(message, problem, sender.content_type, headers)

    async def _outcome(self, message: Msg) -> None:
        name = self._names.read_outcome(message.subject) or ""

        async def taken(outcome: serving.Outcome) -> serving.OutcomeTaken:
            return self._host.take_outcome(name, outcome)

        await self._commanded(serving.Outcome, taken)(message)

    def _commanded(
        self, kind: type[Any], handler: Callable[[Any], Awaitable[msgspec.Struct]]
    ) -> Answering:
        async def answer(message: Msg) -> None:
            content_type = endpoints.caller(message.headers).content_type
            try:
                reply = await handler(codec.decode(message.data, kind, content_type))
                await self._respond(message, codec.encode(reply, content_type), content_type, {})
            except Exception as error:  # noqa: BLE001 - the same
                await self._refuse(message, _problem(error), content_type)

        return answer

    async def _refuse(
        self,
        message: Msg,
        problem: problems.Problem,
        content_type: str | None,
        headers: dict[str, str] | None = None,
    ) -> None:
        known = _known(content_type)
        told = endpoints.refusal(problem) | (headers or {})
        await self._respond(message, codec.encode(problem, known), known, told)

    async def _respond(
        self, message: Msg, body: bytes, content_type: str | None, headers: dict[str, str]
    ) -> None:
        if message.reply:
            told = {subjects.CONTENT_TYPE: content_type or codec.JSON, **headers}
            await self._nc.publish(message.reply, body, headers=told)


def _known(content_type: str | None) -> str | None:
    """Give the content type of an answer to what may have had one that nobody knows."""
    return codec.MSGPACK if content_type and "msgpack" in content_type else None


def _problem(error: Exception) -> problems.Problem:
    problem = endpoints.problem_of(error)
    if problem.code == "internal":
        log.error("answer.broke", exc_info=error)
    return problem
