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

import msgspec
import structlog

from agent import address, catalog, config, designer, ground, tasks, version
from agent.artifacts import cache, store
from agent.bus import (
    announce,
    connection,
    deadletter,
    endpoints,
    intake,
    journal,
    nudges,
    tickets,
)
from agent.conductor import admission, desk, host, index, janitor
from agent.execution import base, cached, identity, in_agent, lines, pool, priced
from agent.run import effects
from agent.telemetry import logs
from agent.training import delegation
from protocol import commands, subjects, swarm
from stages import kit, registry

log = structlog.get_logger()

SWEEP_S = 30.0
LEAST_WINDOW, PER_CPU = 64, 4
"""How many elements of a run's fan-outs are handed to the executors at a time: enough that none of
them waits for work, and few enough that a wide fan-out does not hold up its own first elements."""
DRAIN_S = 20.0
"""How long a stopping agent may take to store what it knows and hand its runs back."""

HEADERS_BYTES = 4096
"""Of a message on the bus, beside its body."""

Executors = dict[effects.Placement, base.Executor]


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

    Raises CutOff if the bus ends the connection for good.
    """
    logs.configure(settings.logs)
    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with running(settings, modules=modules) as agent:
        _stop_on_signals(stop)  # Ray's own handler, set since, would abort us 3 s after a signal
        if ready is not None:
            ready(agent.address)
        await _first_of(stop, agent.cut_off)
        if not stop.is_set():
            raise CutOff(agent.nats_url)
        log.info("agent.stopping", agent=agent.address.agent_id)


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
    settings.data_path.mkdir(parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        agent = Agent(settings, stack, modules)
        await agent.start()
        stack.enter_context(address.noted(settings.data_path, agent.address))
        for name, reason in registry.broken().items():
            log.warning("stages.not_loaded", plugin=name, reason=reason)
        log.info("agent.ready", agent=agent.agent_id, nats=agent.nats_url)
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
        self.cut_off = asyncio.Event()
        """Set when the bus is gone for good: the agent can do nothing more."""
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
        self._nc, self.nats_url, self._cluster = found.nc, found.nats_url, found.cluster
        self.store = store.Store(
            self.settings.artifacts_uri, self.settings.data_path / "artifact-copies"
        )
        self.cache = cache.Cache(self.store)
        self._announcer = announce.Announcer(self._nc, self.names)
        self._journal = journal.Journal(self._nc, self.names)
        self._nudges = nudges.Nudges(self._nc, self.names)
        self._max_commit_bytes = self._nc.max_payload - HEADERS_BYTES
        self._tickets = tickets.Tickets(self._nc, self.names, self.settings.runs.lease_s)
        await self._tickets.open()
        access = lines.Access(self.nats_url, self.settings.nats)
        self._lines = lines.Lines(self._nc, self.names, access)
        await self._lines.open()
        self.executors = self._make_executors()
        self.host = self._make_host()
        self.index = index.Index()
        await self._start_loops()
        await self._open_doors()

    def _make_executors(self) -> Executors:
        services = self.settings.services(self.nats_url)
        local = self.settings.data_path / "artifact-copies"
        on_ray = pool.RayExecutor(
            self._cluster,
            self.settings.ray,
            self.settings.artifacts_uri,
            local,
            services,
            modules=self._modules,
            line=self._lines,
        )
        here = in_agent.InAgentExecutor(self.store, services)
        self._training = delegation.SpecialistExecutor(
            self._nc,
            self.names,
            self.store,
            self.settings.specialist,
            artifacts_uri=self.settings.artifacts_uri,
            tracking_uri=self.settings.tracking_uri,
            warn=self._warn,
        )
        inner: Executors = {"ray": on_ray, "agent": here, "training": self._training}
        for executor in inner.values():
            self._stack.push_async_callback(executor.close)
        return {place: self._caching(executor, services) for place, executor in inner.items()}

    def _caching(self, inner: base.Executor, services: kit.Services) -> base.Executor:
        caching = cached.CachedExecutor(inner, self.cache, self.store, services)
        price = self.settings.price_per_cpu_hour
        return priced.PricedExecutor(caching, price) if price else caching

    def _make_host(self) -> host.Host:
        return host.Host(
            self.agent_id,
            self.stages,
            journals=self._journal,
            queue=self._tickets,
            nudge=self._nudges,
            executors=self.executors,
            announcer=self._announcer,
            recall=self._training.recall,
            clock=now,
            max_active=self.settings.runs.max_active,
            window=max(LEAST_WINDOW, PER_CPU * self._cluster.cpus),
            max_commit_bytes=self._max_commit_bytes,
        )

    async def _start_loops(self) -> None:
        self._stack.push_async_callback(self._drain)
        sweeping = janitor.Janitor(self.index, self._tickets, self.host, now, every_s=SWEEP_S)
        for name, loop in (
            ("index", self.index.follow(self._journal)),
            ("host", self.host.serve()),
            ("janitor", sweeping.serve()),
            ("bus", self._watch_bus()),
        ):
            self._keep(name, loop)

    async def _watch_bus(self) -> None:
        await connection.wait_closed(self._nc)
        log.critical("bus.closed", hint="the agent can do nothing more: start it anew")
        self.cut_off.set()

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
        accepting = admission.Admission(
            self.agent_id,
            self.stages,
            self._journal,
            self._tickets,
            announcer=self._announcer,
            design=design.design,
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
            clock=now,
            max_reply_bytes=self._max_commit_bytes,
        )
        limit = self.settings.runs.max_payload_bytes
        door = endpoints.Door(self._nc, version.package_version(), max_bytes=limit)
        await door.open(_endpoints(self.names, at_desk))
        self._stack.push_async_callback(door.close)
        dead = deadletter.DeadLetters(self._nc, self.names)
        taking = intake.Intake(self._nc, self.names, at_desk.submit, dead, max_bytes=limit)
        self._keep("intake", taking.serve())

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


def _endpoints(names: subjects.Subjects, at: desk.Desk) -> list[endpoints.Endpoint]:
    table: list[tuple[str, str, type[msgspec.Struct], type[msgspec.Struct], Any]] = [
        (
            "request",
            names.pipeline_request,
            commands.PipelineRequest,
            commands.RunAccepted,
            at.submit,
        ),
        (
            "validate",
            names.pipeline("validate"),
            commands.PipelineRequest,
            commands.ValidationReport,
            at.validate,
        ),
        ("status", names.pipeline("status"), commands.RunQuery, commands.RunStatus, at.status),
        ("list", names.pipeline("list"), commands.RunListQuery, commands.RunList, at.runs),
        ("cancel", names.pipeline("cancel"), commands.Cancel, commands.RunStatus, at.cancel),
        ("resume", names.pipeline("resume"), commands.Resume, commands.RunStatus, at.resume),
        ("approve", names.pipeline("approve"), commands.Approve, commands.RunStatus, at.approve),
        (
            "catalog",
            names.stage_catalog,
            commands.CatalogQuery,
            commands.StageCatalog,
            at.catalog,
        ),
    ]
    return [endpoints.Endpoint(*row) for row in table]


def now() -> dt.datetime:
    """Tell the time."""
    return dt.datetime.now(dt.UTC)


def _default_id() -> str:
    host_name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:40]
    return f"{host_name}-{os.getpid()}"
