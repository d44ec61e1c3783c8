"""Owns a simulated world: the real conductors of several agents, faults, and what came of it.

Real: host, conductor, run core, scribe, journal, tickets, nudges, desk. In memory: the broker, the
network and the work itself. Time is simulated, so a minute costs some milliseconds.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import random
from typing import Any, Literal

import msgspec
import nats.errors

from agent import catalog, tasks
from agent.bus import endpoints, journal, nudges, tickets
from agent.conductor import desk, host
from agent.run import stimuli
from protocol import codec, events, subjects
from tests.ownership import clockwork, memory, shapes, stand_ins, wires

LEASE_S = 2.0
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NAMES = subjects.Subjects()
MODULES = ("tests.execution.sample_stages", "tests.service.sample_stages")
STAGES = catalog.Catalog(max_stages=100, max_fan_out=100, modules=MODULES)
FIRST_AT_S = 0.5
"""When the first run is asked for: agents wait for it by then."""
SETTLED_S = 400.0
SWEEP_S = 30.0

Kind = Literal["kill", "freeze", "cut", "lose", "drain"]


class Fault(msgspec.Struct, frozen=True):
    """Something happens to an agent, and is over after a while."""

    at: float
    agent: int
    kind: Kind
    lasts: float


class Order(msgspec.Struct, frozen=True):
    """Somebody asks an agent to cancel a run, or to let it through its gate."""

    at: float
    agent: int
    run: int
    kind: Literal["cancel", "approve", "resubmit"]


class Script(msgspec.Struct, frozen=True):
    """All that is left to chance."""

    seed: int = 0
    agents: int = 2
    runs: int = 1
    first: int = 0
    """Which shape the first run is of; the next ones are of the next."""
    replicated: bool = True
    """The broker looks at message ids before it looks at the expected sequence."""
    slow: bool = True
    """Some messages take long."""
    skew_s: float = 0.0
    """By how much each agent's clock is before that of the one before it."""
    faults: list[Fault] = []
    orders: list[Order] = []


class World:
    """One simulation, from acceptance until every run is over."""

    journal_of: type[journal.Journal] = journal.Journal
    stream_of: type[memory.Stream] = memory.Stream

    def __init__(self, script: Script) -> None:
        self.script = script
        self.chance = random.Random(script.seed)
        self.works = clockwork.Clockwork()
        self.broker = memory.Broker(self.works.loop())
        self.began: list[stand_ins.Began] = []
        self.stolen: list[str] = []
        """What was stopped by an agent that had lost it: somebody else's training."""
        self.unstored: list[str] = []
        """What was announced before it was in the journal."""
        self.agents = [Agent(self, f"agent{n}") for n in range(script.agents)]
        self.accepted: list[str] = []
        self._make_streams()

    def _make_streams(self) -> None:
        for name, prefix, single in (
            (NAMES.journal_stream, NAMES.run_journal("x")[:-1], False),
            (NAMES.tickets_stream, NAMES.tickets().removesuffix("*.*"), True),
        ):
            self.broker.streams[name] = self.stream_of(
                name, prefix, single=single, id_first=self.script.replicated
            )
        queue = self.broker.streams[NAMES.tickets_stream]
        for priority in tickets.PRIORITIES:
            name = NAMES.tickets_consumer(priority)
            prefix = NAMES.tickets(priority).removesuffix("*")
            self.broker.consumers[name] = memory.Consumer(self.broker, queue, name, prefix, LEASE_S)

    def now(self) -> dt.datetime:
        return EPOCH + dt.timedelta(seconds=self.works.clock.now)

    def play(self) -> World:
        """Let it all happen, until every run is over or never will be."""
        loop = self.broker.loop
        for agent in self.agents:
            agent.start()
        for number in range(self.script.runs):
            at = FIRST_AT_S + 0.1 * number
            loop.call_at(at, self._submit, self.script.first + number)
        for fault in self.script.faults:
            loop.call_at(fault.at, self._strike, fault)
        for order in self.script.orders:
            loop.call_at(order.at, self._order, order)
        loop.call_at(SWEEP_S, self._sweep)
        while not self._over() and self.works.clock.now < SETTLED_S:
            self.works.run(self.works.clock.now + 5.0)
        for agent in self.agents:
            agent.end()
        self.works.remove(loop)
        return self

    def journals(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for one in self.broker.streams[NAMES.journal_stream].messages:
            found.setdefault(str(NAMES.read_journal(one.subject)), []).append(one.data)
        return found

    def facts(self, run_id: str) -> list[events.AnyEvent]:
        commits = self.journals().get(run_id, [])
        return [fact for one in commits for fact in codec.decode(one, events.Commit).events]

    def _over(self) -> bool:
        ends = (events.RunSucceeded, events.RunFailed, events.RunCancelled)
        last = [(self.facts(run_id) or [None])[-1] for run_id in self.accepted]
        return len(last) == self.script.runs and all(isinstance(one, ends) for one in last)

    def _submit(self, number: int, priority: int = 5) -> None:
        """Have a request accepted by somebody to whom nothing happens."""
        client = self._outsider()
        first = shapes.acceptance(number, priority, self.now())
        journals = journal.Journal(client, NAMES)
        queue = tickets.Tickets(client, NAMES, LEASE_S)

        async def submit() -> None:
            with contextlib.suppress(journal.Fenced):
                await journals.append(first.run_id, codec.encode(first), expected=0)
            # The broker has forgotten the message id of a ticket that is two minutes old.
            await queue.put(first.run_id, priority, f"accepted-{self.now()}")
            if first.run_id not in self.accepted:
                self.accepted.append(first.run_id)

        self.broker.loop.create_task(submit())

    def _outsider(self) -> wires.Client:
        return wires.Client(self.broker.loop, self.broker, self.wire())

    def wire(self) -> wires.Wire:
        return wires.Wire(self.broker, self.chance, slow=self.script.slow)

    def _sweep(self) -> None:
        """Do what the janitor does."""
        queue = tickets.Tickets(self._outsider(), NAMES, LEASE_S)
        for run_id in self.accepted:
            token = f"janitor-{self.works.clock.now}"
            priority = self.facts(run_id)[0].options.priority
            self.broker.loop.create_task(queue.put(run_id, priority, token))
        self.broker.loop.call_later(SWEEP_S, self._sweep)

    def _strike(self, fault: Fault) -> None:
        agent = self.agents[fault.agent % len(self.agents)]
        if agent.well and agent.loop is not None:
            agent.well = False
            mend = getattr(agent, fault.kind)()
            self.broker.loop.call_later(fault.lasts, self._mend, agent, mend)

    def _mend(self, agent: Agent, mend: Any) -> None:
        mend()
        agent.well = True

    def _order(self, order: Order) -> None:
        if order.kind == "resubmit":
            number = self.script.first + order.run % self.script.runs
            self._submit(number, priority=7)
            return
        agent = self.agents[order.agent % len(self.agents)]
        if agent.loop is not None and self.accepted:
            agent.order(order.kind, self.accepted[order.run % len(self.accepted)])


class Agent:
    """One agent: a loop, a wire, and the real parts on them."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self._skew = dt.timedelta(seconds=world.script.skew_s * int(name[-1]))
        self.loop: clockwork.Loop | None = None
        self.well = True

    def start(self) -> None:
        world = self.world
        self.loop = world.works.loop()
        self.client = wires.Client(self.loop, world.broker, world.wire())
        self._queue = tickets.Tickets(self.client, NAMES, LEASE_S)
        parts: dict[str, Any] = {
            "journals": world.journal_of(self.client, NAMES),
            "queue": self._queue,
            "nudge": nudges.Nudges(self.client, NAMES),
            "announcer": stand_ins.Announcer(world, self.client),
            "clock": self.now,
        }
        work = stand_ins.Executor(self)
        self._host = host.Host(
            self.name,
            STAGES,
            executors={"ray": work, "agent": work, "training": work, "swarm": work},
            recall=_nothing,
            survivors=stand_ins.Nobody(),
            max_active=3,
            max_losses=100,
            window=64,
            max_commit_bytes=1 << 20,
            **parts,
        )
        unused = dict.fromkeys(inspect.signature(desk.Desk).parameters)
        told = {"agent_id": self.name, "stages": STAGES, "runs": self._host}
        self._desk = desk.Desk(**(unused | parts | told | {"max_reply_bytes": 1 << 20}))
        self._serving = self.loop.create_task(self._host.serve())

    def now(self) -> dt.datetime:
        """Tell the time by the agent's own clock."""
        return self.world.now() + self._skew

    def order(self, kind: str, run_id: str) -> None:
        """Give a command; whoever gave it does not mind a refusal here."""

        async def ask() -> None:
            refused = (endpoints.Refusal, journal.Unavailable, nats.errors.Error, TimeoutError)
            with contextlib.suppress(refused):
                change = (
                    stimuli.CancelAsked("x")
                    if kind == "cancel"
                    else stimuli.Answered("gate", approved=True, by="x")
                )
                await self._desk._change(run_id, change, kind)

        self.loop.create_task(ask())

    def end(self) -> None:
        """Be gone."""
        if self.loop is not None:
            self.client.die()
            self.world.works.remove(self.loop)
            self.loop = None

    def kill(self) -> Any:
        self.end()
        return self.start

    def freeze(self) -> Any:
        loop = self.loop
        loop.frozen = True
        return lambda: setattr(loop, "frozen", False)

    def cut(self) -> Any:
        return self._cut(lost=False)

    def lose(self) -> Any:
        return self._cut(lost=True)

    def _cut(self, *, lost: bool) -> Any:
        wire = self.client.wire
        wire.cut = True
        return lambda: wire.mend(lost=lost)

    def drain(self) -> Any:
        """Stop in order, as the service does, and come back later."""

        async def close() -> None:
            await tasks.end(self._serving)
            await self._queue.close()
            await self._host.close()

        self.loop.create_task(close())
        return self._restart

    def _restart(self) -> None:
        self.end()
        self.start()


async def _nothing(_: Any) -> None: ...
