"""Owns the executor on Ray: attempts on warm workers, their news, their stop and its proof."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import uuid
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from agent import config, tasks
from agent.execution import (
    base,
    bench,
    calls,
    cluster,
    custody,
    hands,
    hiring,
    jobs,
    lines,
    losses,
    orphans,
    paces,
    scaling,
    worker,
)
from agent.run import effects
from protocol import pipelines, problems
from stages import kit

log = structlog.get_logger(__name__)

QUIET_S = 0.5
"""Attempts shorter than this are not listened to: their notes come with the reply."""
PATIENCE_S = 5.0
KEPT_LEASES = 6
"""For so many leases a worker on a shared cluster keeps a result that its agent did not get."""
ANSWER_S = 1.0
"""A worker that says nothing for so long is taken to be ours yet."""
LULL_S = 0.1
"""Between two questions for news, however much a stage tells."""


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
        self._holder = uuid.uuid4().hex
        terms = custody.Terms(self._holder, lease_s, KEPT_LEASES * lease_s)
        self._place = orphans.namespace(store_uri) if cores.remote else ""
        shared = terms if cores.remote else None
        setup = worker.Setup(store_uri, str(local), services, modules, bus, shared)
        self._hiring = hiring.Hiring(setup, line, self._place)
        self._cpus = self._most = cores.cpus
        self._workers = settings.workers
        self._bench = bench.Bench(cores.cpus, settings.workers or cores.cpus, self._hiring.hire)
        self._paces = paces.Paces()
        self._errands: set[asyncio.Task[None]] = set()
        self._jobs: dict[effects.WorkKey, jobs.Job] = {}
        self._closed = False
        self._adopted: set[hands.Hand] = set()
        """Workers that another agent had hired; they hold no place here."""
        self._scaling = scaling.Scaling(self._bench, cores, settings)
        if cores.remote:
            self._signing = asyncio.create_task(self._sign(terms.sign_s), name="signs of life")

    async def _sign(self, every_s: float) -> None:
        while not self._closed:
            for hand in (*self._bench.all(), *self._adopted):
                hand.sign(self._holder)
            await asyncio.sleep(every_s)

    def resize(self, cpus: int) -> None:
        """Follow the cluster as it grows and shrinks; nothing that is at work is harmed."""
        if not self._scaling.is_settled(cpus) or self._closed or cpus == self._cpus:
            return
        log.info("cluster.resized", cpus=cpus, before=self._cpus)
        self._cpus, self._most = cpus, max(cpus, self._most)
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

    async def find(self, works: Sequence[effects.Work]) -> frozenset[effects.WorkKey]:
        """Give those attempts that a worker on a shared cluster is at, or has done."""
        if not self._place:
            return frozenset()
        return await orphans.find(self._place, works, self._names())

    def _names(self) -> set[str]:
        return {hand.name for hand in self._bench.all()}

    async def _claim(self, work: effects.Work) -> hands.Hand | None:
        return await orphans.claim(self._place, work, self._holder, self._names())

    async def end(self, works: Sequence[effects.Work]) -> None:
        """End the workers that are at these attempts, and prove it."""
        found = await self.find(works)
        wanted = [self._claim(work) for work in works if work.key in found]
        ended = [hand for hand in await asyncio.gather(*wanted) if hand is not None]
        for hand in ended:
            hand.kill()
        await asyncio.gather(*(hand.wait_gone() for hand in ended))

    async def _adopt(self, work: effects.Work, job: jobs.Job) -> base.Outcome:
        """Go on with an attempt that a lost agent had begun."""
        hand = await self._claim(work)
        if hand is None:
            return base.Failed(losses.not_found())
        self._adopted.add(hand)
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
            self._adopted.discard(hand)
            if outcome is None:
                hand.leave()
            else:
                hand.kill()

    async def _placed(self, work: effects.Work, job: jobs.Job) -> base.Outcome:
        """Run an attempt where there is a place; look for another where its turn does not come."""
        quick, again = self._paces.is_quick(work.use), False
        while not (job.to_stop or self._closed):
            if (problem := self._too_many(work.resources)) is not None:
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
        if not job.to_stop and not self._closed and (problem := self._too_many(work.resources)):
            return base.Failed(problem)
        return base.Halted("not_started")

    def _leave(self, place: bench.Place, job: jobs.Job, *, finished: bool) -> None:
        call = job.call
        if finished or (place.behind and call is None):
            self._give_back(place)
        elif place.behind and call is not None and not call.begun:
            task = asyncio.create_task(self._take_back(place, call), name="take back")
            self._errands.add(task)
            task.add_done_callback(self._errands.discard)
        else:
            self._drop(place.hand, job)
            self._give_back(place)

    def _drop(self, hand: hands.Hand, job: jobs.Job) -> None:
        """Let an attempt go that nobody here waits for any more, but the run's next owner may."""
        call = job.call
        lasting = hand.shared and job.heritable and call is not None and hand.is_only_at(call)
        if lasting and not job.forced:
            hand.leave()
        else:
            hand.kill()

    async def _take_back(self, place: bench.Place, call: calls.Call) -> None:
        """Drop an attempt that waits in a worker, without harm to the one before it."""
        if not await self._withdraw(place.hand, call):
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
                await self._ask(hand, call.number)
            data = await self._followed(hand, job, call, waits=place.behind)
            outcome, notes = worker.decode_reply(data)
        except ray.exceptions.OutOfMemoryError as error:
            return await self._died(hand, job, losses.out_of_memory(error))
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            hiring.NotHired,
        ) as error:
            return await self._died(hand, job, losses.lost(hand, error))
        except calls.Adopted as error:
            return base.Failed(problems.Problem("preempted", str(error), retryable=True))
        job.tell(notes)
        self._paces.note(work.use, outcome)
        return outcome

    async def _followed(
        self, hand: hands.Hand, job: jobs.Job, call: calls.Call, *, waits: bool
    ) -> bytes:
        """Wait for the reply; listen where it takes long, withdraw it where its turn does."""
        aside: list[asyncio.Task[Any]] = []

        def begin(work: Coroutine[Any, Any, Any], name: str) -> None:
            aside.append(asyncio.create_task(work, name=name))

        loop = asyncio.get_running_loop()
        timers = [loop.call_later(QUIET_S, lambda: begin(self._listen(hand, job, call), "listen"))]
        if waits:
            withdraw = lambda: begin(self._withdraw(hand, call), "withdraw")  # noqa: E731
            timers.append(loop.call_later(hands.PROMPT_S, withdraw))
        try:
            return await call.reply
        finally:
            for timer in timers:
                timer.cancel()
            await tasks.end(*aside)

    async def _withdraw(self, hand: hands.Hand, call: calls.Call) -> bool:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # the reply says what became of it
            return await hand.withdraw(call)
        return False

    async def _listen(self, hand: hands.Hand, job: jobs.Job, call: calls.Call) -> None:
        import ray

        seen, insisted = 0, False
        try:
            while True:
                news = await hand.news(call.number, seen, PATIENCE_S)
                if not news and not insisted:
                    hand.insist(call)
                    insisted = True
                seen = job.tell(news)
                await asyncio.sleep(LULL_S)
        except ray.exceptions.RayError:
            return  # the reply says what became of the worker
        except Exception:
            hand.insist(call)  # nobody listens any more, so let the reply come by itself
            raise

    async def _died(self, hand: hands.Hand, job: jobs.Job, why: base.Failed) -> base.Outcome:
        """Say how an attempt ended whose worker is gone: killed by us, or lost."""
        hand.kill()
        await hand.wait_gone()
        if job.forced:
            how = "forced" if job.call else "not_started"
            return base.Halted(how, hand.where)
        log.warning("worker.lost", worker=hand.where, code=why.problem.code)
        return why

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
        if call is not None and await self._withdraw(hand, call):
            return
        if job.hand is not hand:
            return  # it was withdrawn meanwhile, and sees for itself that it is to stop
        if force or hand.identity is None:
            await self._force(hand, job)
        elif call is not None:
            await self._ask(hand, call.number)

    async def _force(self, hand: hands.Hand, job: jobs.Job) -> None:
        """Kill a worker, unless another agent has taken it over while we were frozen."""
        if await self._is_ours(hand):
            job.forced = True
            hand.kill()

    async def _is_ours(self, hand: hands.Hand) -> bool:
        if hand.shared and hand.identity is not None:
            with contextlib.suppress(Exception):  # it is gone or says nothing: be rid of it
                async with asyncio.timeout(ANSWER_S):
                    return await hand.is_of(self._holder)
        return True

    async def _ask(self, hand: hands.Hand, number: int) -> None:
        import ray

        try:
            await hand.ask_to_stop(number, self._holder)
        except ray.exceptions.RayError:
            return  # it is gone: `run` finds out

    async def close(self) -> None:
        """Kill every worker and prove it; attempts that run end as stopped by force."""
        self._closed = True
        self._bench.close()
        self._hiring.close()
        await self._scaling.close()
        if self._place:
            await tasks.end(self._signing)
        for job in self._jobs.values():
            job.forced = True
        everyone = [*self._bench.all(), *self._adopted]
        if self._place:
            ours = await asyncio.gather(*map(self._is_ours, everyone))
            everyone = [hand for hand, mine in zip(everyone, ours, strict=True) if mine]
        for hand in everyone:
            hand.kill()
        await asyncio.gather(*(hand.wait_gone() for hand in everyone), *self._errands)

    async def _missing(self, work: effects.Work, job: jobs.Job) -> problems.Problem | None:
        """Say what the cluster has too little of, for an attempt that is to be made yet."""
        needs = work.resources
        if job.to_stop or self._closed:
            return None
        if (problem := self._too_many(needs)) is not None:
            return problem
        if not needs.gpu and not needs.memory_bytes:
            return None
        import ray

        nodes = [n["Resources"] for n in await asyncio.to_thread(ray.nodes) if n["Alive"]]
        for name, what, wanted in (
            ("GPU", "GPUs", needs.gpu),
            ("memory", "bytes of memory", needs.memory_bytes or 0),
        ):
            most = max((node.get(name, 0) for node in nodes), default=0)
            if wanted > most:
                return losses.too_much(what, wanted, most)
        return None

    def _too_many(self, needs: pipelines.Resources) -> problems.Problem | None:
        """Say if there are too few CPUs now; where there have been enough, there may be again."""
        if needs.cpu <= self._cpus:
            return None
        return losses.too_much("CPUs", needs.cpu, self._cpus, again=needs.cpu <= self._most)
