"""Owns the composition of the agent: what it is made of, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

from agent import (
    address,
    catalog,
    config,
    designer,
    doors,
    ground,
    limits,
    private,
    tasks,
    version,
    workplaces,
)
from agent.artifacts import cache, objects, store
from agent.bus import (
    announce,
    auditing,
    connection,
    deadletter,
    endpoints,
    intake,
    journal,
    nudges,
    senders,
    tickets,
)
from agent.conductor import admission, backlog, desk, host, index, janitor
from agent.execution import identity, lines, vigil
from agent.prompting import convention, guide
from agent.prompting import door as prompts
from agent.run import effects
from agent.serving import counter, keeper
from agent.swarm import member
from agent.telemetry import logs
from agent.training import delegation
from protocol import subjects, swarm
from stages import registry

log = structlog.get_logger()

SWEEP_S = 30.0
LEAST_WINDOW, PER_CPU = 64, 4
"""How many elements of a run's fan-outs are handed to the executors at a time: enough that none of
them waits for work, and few enough that a wide fan-out does not hold up its own first elements."""
DRAIN_S = 20.0
"""How long a stopping agent may take to store what it knows and hand its runs back."""

HEADERS_BYTES = 4096
"""Of a message on the bus, beside its body."""


class CutOff(Exception):
    """The bus has refused the connection for good; a supervisor may start the agent anew."""

    def __init__(self, url: str) -> None:
        super().__init__(f"the bus at {config.redact(url)} has ended the connection for good")
        self.url = url


async def serve(
    settings: config.Settings,
    ready: Callable[[address.Address], None] | None = None,
    *,
    modules: tuple[str, ...] = (),
) -> None:
    """Run an agent until SIGTERM or SIGINT; `modules` name further modules with stages.

    Raises CutOff if the bus ends the connection for good, ClusterLost if Ray's head is gone.
    """
    logs.configure(settings.logs)
    stop = asyncio.Event()
    _stop_on_signals(stop)
    try:
        async with running(settings, modules=modules) as agent:
            _stop_on_signals(stop)  # Ray's own handler would abort us 3 s after a signal
            if ready is not None:
                ready(agent.address)
            await _first_of(stop, agent.failed)
            if agent.failure is not None:
                raise agent.failure
            log.info("agent.stopping", agent=agent.address.agent_id)
    finally:
        await _end_rest()


async def _end_rest() -> None:
    """End what still runs, a defect: `asyncio.run` cancels it once, and it may not heed that."""
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        log.warning("task.left", task=task.get_name(), work=str(task.get_coro()))
    await tasks.end(*rest)


async def _first_of(*told: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in told]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await tasks.end(*waiting)


def _stop_on_signals(stop: asyncio.Event) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)


@contextlib.asynccontextmanager
async def running(
    settings: config.Settings, *, modules: tuple[str, ...] = ()
) -> AsyncIterator[Agent]:
    """Run an agent while the context lasts."""
    private.folder(settings.data_path)
    async with contextlib.AsyncExitStack() as stack:
        agent = Agent(settings, stack, modules)
        await agent.start()
        stack.enter_context(address.noted(settings.data_path, agent.address))
        for name, reason in registry.broken().items():
            log.warning("stages.not_loaded", plugin=name, reason=reason)
        log.info("agent.ready", agent=agent.agent_id, nats=config.redact(agent.nats_url))
        yield agent


class Agent:
    """One running agent. Parts are made in `start`, and stopped by the stack in reverse order."""

    def __init__(
        self, settings: config.Settings, stack: contextlib.AsyncExitStack, modules: tuple[str, ...]
    ) -> None:
        self.settings = settings
        self.agent_id = settings.agent_id or _default_id()
        self.names = subjects.Subjects(settings.nats.prefix)
        self.stages = catalog.Catalog(
            max_stages=settings.runs.max_stages,
            max_fan_out=settings.runs.max_fan_out,
            modules=modules,
        )
        self.nats_url = settings.nats.url
        self.failed = asyncio.Event()
        self.failure: CutOff | vigil.ClusterLost | None = None
        """What it stood on and is gone for good: the agent can do nothing more."""
        self._modules = modules
        self._errands: set[asyncio.Task[None]] = set()
        self._stack = stack

    @property
    def address(self) -> address.Address:
        """Say where this agent can be reached."""
        return address.Address(self.nats_url, os.getpid(), self.settings.nats.prefix, self.agent_id)

    async def start(self) -> None:
        """Start everything; return once requests are taken."""
        found = await ground.stand(self.settings, self.agent_id, self._stack)
        self._ground = found
        self._nc, self.nats_url, self._cluster = found.nc, found.nats_url, found.cluster
        self.store = store.Store(
            self.settings.artifacts_uri,
            self.settings.data_path / "artifact-copies",
            objects.access(self.nats_url, self.settings.nats),
        ).make()
        self.cache = cache.Cache(self.store)
        self._announcer = announce.Announcer(self._nc, self.names)
        self._journal = journal.Journal(self._nc, self.names)
        self._nudges = nudges.Nudges(self._nc, self.names)
        self._max_commit_bytes = self._nc.max_payload - HEADERS_BYTES
        self._tickets = tickets.Tickets(self._nc, self.names, self.settings.runs.lease_s)
        await self._tickets.open()
        access = lines.Access(self.nats_url, self.settings.nats.for_workers())
        self._lines = lines.Lines(self._nc, self.names, access)
        await self._lines.open()
        self.swarm = member.Member(
            self.agent_id,
            self._nc,
            self.names,
            self.settings.swarm,
            stages=self.stages,
            cores=self._cluster,
            warn=self._warn,
            clock=now,
        )
        self._models = keeper.Keeper(self.settings, self._nc, self.names)
        self._places = self._furnish()
        made = self._places.own
        self._taker = self.swarm.taker(made, self.store, self._journal, self._max_commit_bytes)
        self.executors = self._places.all(self.swarm.stance)
        self.host = self._make_host()
        self.swarm.count_runs = lambda: self.host.load
        self.swarm.gauge.follow(lambda cpus: self.host.widen(_window(cpus)))
        self.index = index.Index(backlog.Backlog(self.agent_id))
        await self._start_loops()
        await self._open_doors()

    def _furnish(self) -> workplaces.Workplaces:
        places = workplaces.Workplaces(
            self.settings,
            found=self._ground,
            names=self.names,
            artifacts=self.store,
            steps=self.cache,
            journals=self._journal,
            line=self._lines,
            far=self.swarm.executor,
            models=self._models,
            warn=self._warn,
            modules=self._modules,
        )
        for executor in places.executors():
            self._stack.push_async_callback(executor.close)
        self.swarm.gauge.follow(places.on_ray.resize)
        return places

    def _make_host(self) -> host.Host:
        return host.Host(
            self.agent_id,
            self.stages,
            journals=self._journal,
            queue=self._tickets,
            nudge=self._nudges,
            executors=self.executors,
            announcer=self._announcer,
            recall=self._places.recall,
            survivors=self._places.on_ray.sharing,
            clock=now,
            max_active=self.settings.runs.max_active,
            max_losses=self.settings.runs.max_losses,
            window=_window(self._cluster.cpus),
            max_commit_bytes=self._max_commit_bytes,
        )

    async def _start_loops(self) -> None:
        self._stack.push_async_callback(self.swarm.leave)
        self._stack.push_async_callback(self._drain)
        self._stack.push_async_callback(self._taker.close)
        sweeping = janitor.Janitor(self.index, self._tickets, self.host, now, every_s=SWEEP_S)
        for name, loop in (
            ("index", self.index.follow(self._journal)),
            ("backlog", self.index.waiting.serve(self._tickets)),
            ("host", self.swarm.stance.while_ready(self.host.serve)),
            ("swarm", self.swarm.live()),
            ("offers", self.swarm.listen()),
            ("taker", self._taker.serve()),
            ("janitor", sweeping.serve()),
            ("models", self._models.serve()),
            ("bus", self._watch_bus()),
            ("cluster", self._watch_cluster()),
        ):
            self._keep(name, loop)

    async def _watch_bus(self) -> None:
        await connection.wait_closed(self._nc)
        self._fail(CutOff(self.nats_url))

    async def _watch_cluster(self) -> None:
        await self._ground.vigil.wait_lost()
        self._fail(vigil.ClusterLost(self._ground.vigil.address))

    def _fail(self, failure: CutOff | vigil.ClusterLost) -> None:
        log.critical("agent.failed", reason=str(failure), hint="start it anew: it goes on")
        self.failure = self.failure or failure
        self.failed.set()

    async def _count_waiting(self) -> int:
        """Count the runs that nobody has taken, in the queue or behind those of their requester."""
        return await self._tickets.waiting() + self.index.waiting.behind

    async def _drain(self) -> None:
        await self._tickets.close()
        try:
            async with asyncio.timeout(DRAIN_S):
                await self.host.close()
        except TimeoutError:
            log.warning("agent.drain_incomplete", hint="the journal has all that was stored")

    def _keep(self, name: str, loop: Coroutine[Any, Any, None]) -> None:
        """Run a loop while the agent runs; its end is a defect that must be seen."""
        task = asyncio.create_task(loop, name=name)

        def ended(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                log.critical("loop.broke", loop=name, exc_info=done.exception())

        task.add_done_callback(ended)
        self._stack.push_async_callback(tasks.end, task)

    async def _open_doors(self) -> None:
        design = designer.Designer(self.executors["ray"], self.store)
        known = senders.Senders(self._nc, self.names, self.settings.security, now)
        audit = auditing.AuditLog(self.agent_id, self._nc, self.names, known, now)
        self._stack.push_async_callback(audit.close)
        self._keep("audit", audit.serve())
        accepting = admission.Admission(
            self.agent_id,
            self.stages,
            self._journal,
            self._tickets,
            announcer=self._announcer,
            design=design.design,
            known=known,
            waiting=self.index.waiting,
            allowed=limits.Limits(self.settings.limits, self.index),
            clock=now,
            max_commit_bytes=self._max_commit_bytes,
        )
        at_desk = desk.Desk(
            self.agent_id,
            self.stages,
            journals=self._journal,
            queue=self._tickets,
            nudge=self._nudges,
            runs=self.host,
            listing=self.index,
            announcer=self._announcer,
            accepting=accepting,
            steps=self.cache,
            identities=identity.Identities(self.store, self.settings.services(self.nats_url)),
            audit=audit,
            known=known,
            clock=now,
            max_reply_bytes=self._max_commit_bytes,
        )
        limit = self.settings.runs.max_payload_bytes
        door = endpoints.Door(
            self._nc, version.package_version(), max_bytes=limit, receive=audit.received
        )
        porter = member.Porter(
            at_desk.submit,
            self.swarm.stance,
            self._count_waiting,
            self.settings.runs.max_waiting,
        )
        submit = audit.watching("submit", porter.submit)
        served = doors.doors(self.names, at_desk, submit, *self._open_models(audit))
        await door.open([*served, audit.watched_endpoint(self.swarm.endpoint())])
        self._stack.push_async_callback(door.close)
        dead = deadletter.DeadLetters(self._nc, self.names)
        accept = audit.watching("queue", at_desk.submit)
        taking = intake.Intake(
            self._nc, self.names, accept, dead, max_bytes=limit, receive=audit.received
        )
        self._keep("intake", self.swarm.stance.while_ready(taking.serve))
        if self.settings.prompting.enabled:
            speaker = guide.Guide(self._nc, self.names, at_desk, submit)
            await self._open_to_agents(speaker, audit)

    def _open_models(
        self, audit: auditing.AuditLog
    ) -> tuple[counter.Counter, dict[str, endpoints.Handler]]:
        models = counter.Counter(self._models, self.names)
        changing: dict[str, Any] = {"rollback": models.roll_back, "undeploy": models.undeploy}
        return models, {name: audit.watching(name, one) for name, one in changing.items()}

    async def _open_to_agents(self, speaker: guide.Guide, audit: auditing.AuditLog) -> None:
        chosen = self.settings.prompting
        owner = chosen.owner or convention.owner_of(self.names.prefix)
        self.prompts = prompts.Door(
            self._nc,
            convention.Place(owner, chosen.session),
            speaker.answer,
            identify=audit.prompted,
            version=version.package_version(),
            clock=now,
            max_bytes=self.settings.runs.max_payload_bytes,
        )
        await self.prompts.open()
        self._stack.push_async_callback(self.prompts.close)

    def _warn(self, severity: delegation.Severity, message: str, work: effects.Work) -> None:
        alert = swarm.Alert(
            severity=severity,
            at=now(),
            message=message,
            run_id=work.key.run_id,
            stage=work.key.stage,
        )
        errand = asyncio.create_task(self._announcer.alert(alert), name="alert")
        self._errands.add(errand)
        errand.add_done_callback(self._errand_done)

    def _errand_done(self, errand: asyncio.Task[None]) -> None:
        self._errands.discard(errand)
        if not errand.cancelled() and errand.exception() is not None:
            log.warning("alert.failed", error=str(errand.exception()))


def _window(cpus: int) -> int:
    return max(LEAST_WINDOW, PER_CPU * cpus)


def now() -> dt.datetime:
    """Tell the time."""
    return dt.datetime.now(dt.UTC)


def _default_id() -> str:
    host_name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]
    return f"{host_name}-{os.getpid()}"
