"""Owns this agent's place in the swarm: what it takes, what it tells of itself, what it obeys."""

from __future__ import annotations

import asyncio
import datetime as dt
import fnmatch
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog
from nats.aio.client import Client

from agent import catalog, config, version
from agent.artifacts import store
from agent.bus import endpoints, journal
from agent.execution import base, cluster
from agent.run import effects
from agent.swarm import executor, fitness, gauge, offers, presence, stance, taker
from protocol import commands, problems, subjects, swarm

log = structlog.get_logger(__name__)

Clock = Callable[[], dt.datetime]
CountWaiting = Callable[[], Coroutine[Any, Any, int]]


class Member:
    """One agent among others."""

    def __init__(
        self,
        agent_id: str,
        nc: Client,
        names: subjects.Subjects,
        settings: config.Swarm,
        *,
        stages: catalog.Catalog,
        cores: cluster.Cluster,
        warn: executor.Warn,
        clock: Clock,
    ) -> None:
        self._agent_id = agent_id
        self._nc = nc
        self._names = names
        self._stages = stages
        self._clock = clock
        self.capabilities = [
            name
            for name in stages.names()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.capabilities)
        ]
        self.stance = stance.Stance(settings.capacity)
        self.count_runs: Callable[[], int] = lambda: 0
        """Says how many runs the agent holds."""
        self.gauge = gauge.Gauge(cores, settings.min_free_bytes)
        self._presence = presence.Presence(nc, names, self.card)
        self._queue = offers.Offers(nc, names, self.capabilities, settings.lease_s)
        self.executor = executor.SwarmExecutor(
            agent_id, nc, names, self._queue, settings, warn=warn
        )

    def taker(
        self,
        executors: Mapping[effects.Placement, base.Executor],
        kept: store.Store,
        journals: journal.Journal,
        max_bytes: int,
    ) -> taker.Taker:
        """Make the half that takes others' work."""
        return taker.Taker(
            self._agent_id,
            self._nc,
            self._names,
            stages=self._stages,
            queue=self._queue,
            executors=executors,
            fit=fitness.Fitness(kept, journals, self._clock),
            taking=self.stance,
            max_bytes=max_bytes,
            clock=self._clock,
        )

    def card(self) -> swarm.AgentCard:
        """Say who this agent is and what it can take on now."""
        return swarm.AgentCard(
            agent=self._agent_id,
            role=subjects.SERVICE,
            version=version.package_version(),
            capabilities=self.capabilities,
            capacity=self.stance.capacity,
            load=self.stance.at_work,
            state=self.stance.state,
            at=self._clock(),
            runs=self.count_runs(),
        )

    async def listen(self) -> None:
        """Hear of assignments until cancelled."""
        await self._queue.listen()

    async def live(self) -> None:
        """Measure the cluster and show the card, again and again, until cancelled."""
        while True:
            await self.gauge.measure(self.stance)
            await self._presence.show()
            await asyncio.sleep(swarm.PRESENCE_S)

    async def leave(self) -> None:
        """Say that this agent stops."""
        self.stance.become("stopped")
        await self._presence.show()

    def endpoint(self) -> endpoints.Endpoint:
        """Give the endpoint that only this agent answers."""
        subject = self._names.control(self._agent_id)
        return endpoints.Endpoint(
            "control", subject, swarm.AgentControl, swarm.AgentCard, self._obey
        )

    async def _obey(self, command: swarm.AgentControl, _: endpoints.Caller) -> swarm.AgentCard:
        match command.action:
            case "drain":
                self.stance.become("draining")
            case "undrain":
                self.stance.become("ready")
            case "set_capacity":
                self.stance.choose(command.capacity)
        log.info("agent.controlled", action=command.action, capacity=command.capacity)
        return await self._presence.show()


class Porter:
    """Turns requests away that would only wait: who asked can ask another agent, or later."""

    def __init__(
        self,
        submit: endpoints.Handler,
        taking: stance.Stance,
        waiting: CountWaiting,
        max_waiting: int | None,
    ) -> None:
        self._submit = submit
        self._stance = taking
        self._waiting = waiting
        self._max_waiting = max_waiting

    async def submit(
        self, request: commands.PipelineRequest, caller: endpoints.Caller
    ) -> commands.RunAccepted:
        """Accept a request, or refuse it as `overloaded`."""
        if self._stance.state != "ready":
            raise endpoints.Refusal(_overloaded("the agent is draining"))
        if self._max_waiting is not None and (count := await self._waiting()) >= self._max_waiting:
            message = f"{count} runs wait; no more than {self._max_waiting} are let in"
            raise endpoints.Refusal(_overloaded(message))
        accepted: Any = await self._submit(request, caller)
        return accepted


def _overloaded(message: str) -> problems.Problem:
    hint = f"send the same request again after {endpoints.RETRY_AFTER_S} s"
    return problems.Problem("overloaded", message, hint=hint, retryable=True)
