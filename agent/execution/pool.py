"""Owns the executor on Ray: attempts on warm workers, their news, their stop and its proof."""

from __future__ import annotations

import asyncio
import pathlib

import msgspec
import structlog

from agent import config
from agent.execution import (
    base,
    bench,
    calls,
    capacity,
    cluster,
    following,
    hands,
    hiring,
    jobs,
    lines,
    losses,
    orphans,
    paces,
    scaling,
    sharing,
    worker,
)
from agent.run import effects
from protocol import problems
from stages import kit

log = structlog.get_logger(__name__)


class RayExecutor:
    """Runs attempts on Ray workers that are started once and serve many attempts."""

    def __init__(
        self,
        cores: cluster.Cluster,
        settings: config.Ray,
        store_uri: str,
        local: pathlib.Path,
        services: kit.Services,
        *,
        modules: tuple[str, ...] = (),
        line: lines.Lines | None = None,
        lease_s: float = 10.0,
    ) -> None:
        bus = line.access if line else None
        place = orphans.namespace(store_uri) if cores.remote else ""
        self.sharing = sharing.Sharing(place, lease_s)
        setup = worker.Setup(store_uri, str(local), services, modules, bus, self.sharing.terms)
        self._hiring = hiring.Hiring(setup, line, place)
        self._capacity = capacity.Capacity(cores.cpus)
        self._workers = settings.workers
        self._bench = bench.Bench(cores.cpus, settings.workers or cores.cpus, self._hiring.hire)
        self._paces = paces.Paces()
        self._errands: set[asyncio.Task[None]] = set()
        self._jobs: dict[effects.WorkKey, jobs.Job] = {}
        self._closed = False
        self._scaling = scaling.Scaling(self._bench, cores, settings)
        self.sharing.sign_to(self._bench.all)

    def resize(self, cpus: int) -> None:
        """Follow the cluster as it grows and shrinks; nothing that is at work is harmed."""
        before = self._capacity.cpus
        if not self._scaling.is_settled(cpus) or self._closed or cpus == before:
            return
        log.info("cluster.resized", cpus=cpus, before=before)
        self._capacity.resize(cpus)
        self._bench.resize(cpus, self._workers or cpus)

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Run one attempt on a worker, as soon as there is a place for it."""
        job = self._jobs[work.key] = jobs.Job(watcher, heritable=work.heritable)
        try:
            if work.adopt:
                return await self._adopt(work, job)
            missing = lambda: self._missing(work, job)  # noqa: E731
            refusal = await self._scaling.wait_given(work.resources, missing)
            if refusal is not None:
                return base.Failed(refusal)
            if job.to_stop or self._closed:
                return base.Halted("not_started")
            return await self._placed(work, job)
        finally:
            del self._jobs[work.key]

    async def _adopt(self, work: effects.Work, job: jobs.Job) -> base.Outcome:
        """Go on with an attempt that a lost agent had begun."""
        hand = await self.sharing.claim(work)
        if hand is None:
            return base.Failed(losses.not_found())
        self.sharing.adopted.add(hand)
        job.hand = hand
        outcome = None
        try:
            if job.forced:
                hand.kill()
                await hand.wait_gone()
                return base.Halted("forced", hand.where)
            log.info("worker.adopted", worker=hand.where, run=work.key.run_id)
            outcome = await self._on(bench.Place(hand), work, job)
            return outcome
        finally:
            self.sharing.adopted.discard(hand)
            if outcome is None:
                hand.leave()
            else:
                hand.kill()

    async def _placed(self, work: effects.Work, job: jobs.Job) -> base.Outcome:
        """Run an attempt where there is a place; look for another where its turn does not come."""
        quick, again = self._paces.is_quick(work.use), False
        while not (job.to_stop or self._closed):
            if (problem := self._capacity.too_few(work.resources)) is not None:
                return base.Failed(problem)
            asked = job.asked = self._bench.ask(work.resources, quick=quick, again=again)
            try:
                return await self._at(asked, work, job)
            except calls.Withdrawn:
                job.hand = job.call = None
                quick, again = False, True  # it has waited enough
        return base.Halted("not_started")

    async def _at(self, asked: bench.Waiting, work: effects.Work, job: jobs.Job) -> base.Outcome:
        """Wait for a place and run an attempt there; raise Withdrawn if its turn does not come."""
        outcome: base.Outcome | calls.Withdrawn | None = None
        try:
            place = (
                asked.place.result() if asked.place.done() else await asyncio.shield(asked.place)
            )
            outcome = await self._on(place, work, job) if place else self._turned_away(work, job)
        except calls.Withdrawn as withdrawn:
            outcome = withdrawn
        finally:
            self._bench.turn_away(asked)
            if place := asked.place.result():
                self._leave(place, job, finished=outcome is not None)
        if isinstance(outcome, calls.Withdrawn):
            raise outcome
        return outcome

    def _turned_away(self, work: effects.Work, job: jobs.Job) -> base.Outcome:
        ended = job.to_stop or self._closed
        problem = None if ended else self._capacity.too_few(work.resources)
        return base.Failed(problem) if problem else base.Halted("not_started")

    def _leave(self, place: bench.Place, job: jobs.Job, *, finished: bool) -> None:
        call = job.call
        if finished or (place.behind and call is None):
            self._give_back(place)
        elif place.behind and call is not None and not call.begun:
            task = asyncio.create_task(self._take_back(place, call), name="take back")
            self._errands.add(task)
            task.add_done_callback(self._errands.discard)
        else:
            following.let_go(place.hand, job)
            self._give_back(place)

    async def _take_back(self, place: bench.Place, call: calls.Call) -> None:
        """Drop an attempt that waits in a worker, without harm to the one before it."""
        if not await following.withdraw(place.hand, call):
            place.hand.kill()
        self._give_back(place)

    def _give_back(self, place: bench.Place) -> None:
        if not self._closed:
            self._bench.give_back(place)

    async def _on(self, place: bench.Place, work: effects.Work, job: jobs.Job) -> base.Outcome:
        import ray

        hand = job.hand = place.hand
        try:
            await hand.ready()
            if job.to_stop and not work.adopt:
                return base.Halted("not_started", hand.where)
            call = job.call = hand.call(msgspec.msgpack.encode(work), job.began)
            await hand.begin(call)
            if job.to_stop:
                await following.ask_to_stop(hand, call, self.sharing.holder)
            data = await following.follow(hand, job, call, waits=place.behind)
            outcome, notes = worker.decode_reply(data)
        except ray.exceptions.OutOfMemoryError as error:
            return await following.died(hand, job, losses.out_of_memory(error))
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            hiring.NotHired,
        ) as error:
            return await following.died(hand, job, losses.lost(hand, error))
        except calls.Adopted as error:
            return base.Failed(problems.Problem("preempted", str(error), retryable=True))
        job.tell(notes)
        self._paces.note(work.use, outcome)
        return outcome

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:
        """Ask an attempt to stop, or kill its worker; its `run` tells when it has."""
        job = self._jobs.get(key)
        if job is None:
            return
        job.to_stop = True
        if job.asked is not None:
            self._bench.turn_away(job.asked)
        hand, call = job.hand, job.call
        if hand is None:
            job.forced = force  # there may be a worker to adopt yet
        if hand is None or hand.dead:
            return
        if call is not None and await following.withdraw(hand, call):
            return
        if job.hand is not hand:
            return  # it was withdrawn meanwhile, and sees for itself that it is to stop
        if force or hand.identity is None:
            await self._force(hand, job)
        elif call is not None:
            await following.ask_to_stop(hand, call, self.sharing.holder)

    async def _force(self, hand: hands.Hand, job: jobs.Job) -> None:
        """Kill a worker, unless another agent has taken it over while we were frozen."""
        if await self.sharing.is_ours(hand):
            job.forced = True
            hand.kill()

    async def close(self) -> None:
        """Kill every worker and prove it; attempts that run end as stopped by force."""
        self._closed = True
        self._bench.close()
        self._hiring.close()
        await self._scaling.close()
        for job in self._jobs.values():
            job.forced = True
        ours = await self.sharing.close()
        for hand in ours:
            hand.kill()
        await asyncio.gather(*map(self._see_off, ours), *self._errands)

    async def _see_off(self, hand: hands.Hand) -> None:
        """Wait for the proof that a worker is gone, as far as anybody can tell."""
        try:
            await hand.wait_gone()
        except Exception as error:  # noqa: BLE001 - its node may be away, or the cluster's head
            log.warning("worker.not_proved_gone", worker=hand.where, error=str(error))
        await hand.wait_told()

    async def _missing(self, work: effects.Work, job: jobs.Job) -> problems.Problem | None:
        """Say what the cluster has too little of, for an attempt that is to be made yet."""
        if job.to_stop or self._closed:
            return None
        return await self._capacity.missing(work.resources)
