"""Owns what the agent answers about endpoints: it asks the serving host, unless that is down."""

from __future__ import annotations

import uuid

import msgspec

from agent.bus import endpoints
from agent.serving import desired, keeper
from protocol import codec, problems, serving, subjects

CHANGE_S = 60.0


class Counter:
    """Answers questions and commands about endpoints."""

    def __init__(self, host: keeper.Keeper, names: subjects.Subjects) -> None:
        self._keeper = host
        self._names = names

    async def listed(
        self, query: serving.EndpointQuery, _: endpoints.Caller
    ) -> serving.EndpointList:
        """List the endpoints; those whose host is away are down."""
        told = await self._keeper.tell("list", query)
        if told is not None:
            return codec.decode(told, serving.EndpointList)
        wanted = [one for one in await self._keeper.wanted() if query.name in {None, one.name}]
        return serving.EndpointList([self._down(one) for one in wanted])

    async def undeploy(self, command: serving.Undeploy, _: endpoints.Caller) -> serving.Endpoint:
        """Take an endpoint away, which the host does; none is started for what is not there."""
        return await self._changed("undeploy", command)

    async def roll_back(self, command: serving.RollBack, _: endpoints.Caller) -> serving.Endpoint:
        """Let the version before serve again, which the host does."""
        key = command.key or uuid.uuid4().hex
        return await self._changed("rollback", msgspec.structs.replace(command, key=key))

    async def _changed(
        self, action: str, command: serving.Undeploy | serving.RollBack
    ) -> serving.Endpoint:
        if command.name not in {one.name for one in await self._keeper.wanted()}:
            message = f"no model {command.name!r} is deployed"
            raise endpoints.Refusal(problems.Problem("not_found", message, path="$.name"))
        try:
            return codec.decode(await self._keeper.ask(action, command, CHANGE_S), serving.Endpoint)
        except keeper.Refused as refused:
            raise endpoints.Refusal(refused.problem) from refused
        except keeper.NoHost as error:
            problem = problems.Problem("unavailable", str(error), retryable=True)
            raise endpoints.Refusal(problem) from error

    def _down(self, entry: desired.Entry) -> serving.Endpoint:
        subject = self._names.predict(entry.name)
        before = entry.before.version if entry.before else ""
        shown = desired.shown(entry)
        return serving.Endpoint(entry.name, "down", shown, subject=subject, before=before)
