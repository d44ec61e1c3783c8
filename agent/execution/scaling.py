"""Owns how a cluster with an autoscaler grows with what waits, and is let shrink with what idles.

Warm workers reserve no CPUs, so Ray does not see who waits for a place. Now and then it is shown:
everything that is at work or waits is asked for until the autoscaler has answered, with nodes
that start or with a no. No longer, as what there is room for is held back from others meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog

from agent import config, tasks
from agent.execution import autoscaler, bench, cluster, hands
from protocol import pipelines, problems

log = structlog.get_logger(__name__)

EVERY_S = 1.0
PATIENCE_S = 5.0
"""Who waits for less is not worth a node."""
MOST_WAITING = 64
"""So many places are asked for at once; more when these are there."""
QUIET_S = 30.0
"""After a no for those who wait, and between two looks for an autoscaler."""
ANSWER_S = 60.0
"""An autoscaler that says nothing for so long has said no."""

Missing = Callable[[], Awaitable[problems.Problem | None]]


class Wish:
    """What an attempt needs that no node has."""

    def __init__(self, bundle: autoscaler.Bundle) -> None:
        self.bundle = bundle
        self.refused = False


class Scaling:
    """Follows the bench; does nothing while there is no autoscaler, as on a cluster of our own."""

    def __init__(self, places: bench.Bench, cores: cluster.Cluster, settings: config.Ray) -> None:
        self._bench = places
        self._address = cores.address
        self._settings = settings
        self._wishes: list[Wish] = []
        self._asked: dict[str, autoscaler.Bundle] = {}
        """By the group's id."""
        self._groups: list[Any] = []
        self._withdrawing: threading.Thread | None = None
        self._asked_at = self._quiet_until = self._settled_at = self._look_at = 0.0
        self._cpus = 0
        self._closed = False
        self._turned = asyncio.Event()
        self._living = [asyncio.create_task(self._live(), name="scaling")] if cores.remote else []

    async def wait_given(
        self, needs: pipelines.Resources, missing: Missing
    ) -> problems.Problem | None:
        """Wait while the autoscaler can give what is missing; say what it cannot."""
        problem = await missing()
        if problem is None or not self._bench.nodes.home or self._is_too_much(needs.cpu):
            return problem
        wish = Wish(autoscaler.Bundle(needs.cpu, bench.shape_of(needs)))
        self._wishes.append(wish)
        try:
            while problem is not None and not (wish.refused or self._closed):
                await self._turned.wait()
                problem = await missing()
        finally:
            self._wishes.remove(wish)
        return problem

    async def close(self) -> None:
        """Ask for nothing any more."""
        self._closed = True
        await tasks.end(*self._living)
        self._withdraw()
        self._turned.set()
        if self._withdrawing is not None:  # Ray ends a process that calls into it afterwards
            await asyncio.to_thread(self._withdrawing.join, hands.TOLD_WITHIN_S)

    async def _live(self) -> None:
        while True:
            try:
                await self._turn()
            except Exception as error:  # noqa: BLE001 - Ray raises many things when it is away
                log.warning("autoscaler.not_reached", error=str(error))
            turned, self._turned = self._turned, asyncio.Event()
            turned.set()
            await asyncio.sleep(EVERY_S)

    async def _turn(self) -> None:
        if await self._find():
            await self._ask()
            self._release()

    async def _find(self) -> bool:
        """Look whether there is an autoscaler by now, and which nodes there are."""
        if not self._bench.nodes.home:
            if time.monotonic() < self._look_at:
                return False
            self._look_at = time.monotonic() + QUIET_S
            if not await asyncio.to_thread(autoscaler.is_there, self._address):
                return False
            log.info("autoscaler.found", address=self._address)
        known = self._bench.nodes
        known.home, known.sizes = await asyncio.to_thread(autoscaler.nodes)
        return bool(known.home)

    def is_settled(self, cpus: int) -> bool:
        """Tell whether a size holds: at first a node that joins is not known to all that place."""
        before, self._cpus = self._cpus, cpus
        return not self._bench.nodes.home or cpus <= before

    async def _ask(self) -> None:
        wanted = self._wanted()
        if not wanted:
            self._withdraw()
            return
        seen = await asyncio.to_thread(autoscaler.look, self._address)
        if {*self._wished()} - {*self._asked.values()} or self._is_answered(seen):
            self._withdraw()
        if seen.starting:  # what comes has to be counted and put to use before more is asked for
            self._settled_at = time.monotonic() + PATIENCE_S
        if not self._asked and time.monotonic() >= self._settled_at and (wanted := self._wanted()):
            await self._ask_for(wanted)

    async def _ask_for(self, wanted: list[autoscaler.Bundle]) -> None:
        log.info("autoscaler.asked", attempts=len(wanted), cpus=sum(one.cpu for one in wanted))
        self._groups = await asyncio.to_thread(autoscaler.ask, wanted)
        ids = (group.id.hex() for group in self._groups)
        self._asked = dict(zip(ids, wanted, strict=True))
        self._asked_at = time.monotonic()

    def _wanted(self) -> list[autoscaler.Bundle]:
        """Give what there should be room for: what no node has first."""
        wishes = self._wished()
        fixed = self._settings.workers is not None  # more nodes would give no more workers
        if fixed or time.monotonic() < self._quiet_until:
            return wishes
        at_work, waiting = self._bench.demand(PATIENCE_S)
        asked = [*at_work, *waiting[:MOST_WAITING]] if waiting else []
        bundles = (autoscaler.Bundle(cpu, shape) for cpu, shape in asked if cpu)
        return self._bounded([*wishes, *bundles])

    def _wished(self) -> list[autoscaler.Bundle]:
        return self._bounded(dict.fromkeys(w.bundle for w in self._wishes if not w.refused))

    def _bounded(self, bundles: Iterable[autoscaler.Bundle]) -> list[autoscaler.Bundle]:
        total, kept = 0.0, []
        for bundle in bundles:
            if not self._is_too_much(total + bundle.cpu):
                total += bundle.cpu
                kept.append(bundle)
        return kept

    def _is_too_much(self, cpus: float) -> bool:
        most = self._settings.max_cpus
        return most is not None and cpus > most

    def _is_answered(self, seen: autoscaler.Seen) -> bool:
        """Tell whether it is known what will come; take note of what will not."""
        if seen.starting or not self._asked:
            return True
        late = time.monotonic() - self._asked_at > ANSWER_S
        pending = self._asked.keys() - seen.given
        if pending - seen.hopeless and not late:
            return False
        if pending:
            self._refuse({self._asked[group] for group in pending})
        self._quiet_until = time.monotonic() + QUIET_S
        return True

    def _refuse(self, bundles: set[autoscaler.Bundle]) -> None:
        log.info("autoscaler.refused", attempts=len(bundles))
        for wish in self._wishes:
            wish.refused = wish.refused or wish.bundle in bundles

    def _withdraw(self) -> None:
        if self._groups:
            self._withdrawing = autoscaler.withdraw(self._groups)
        self._groups, self._asked = [], {}

    def _release(self) -> None:
        """Let workers go that idle on nodes where nobody works, so that these can be taken away."""
        gone = self._bench.release(self._settings.idle_s)
        if gone:
            log.info("workers.released", workers=gone)
