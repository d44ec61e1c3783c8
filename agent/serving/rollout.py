"""Owns the way of a version that is started to the requests: tried out, compared, step by step.

Whatever raises here leaves the requests to move back, which the host does: the bucket says all the
while that the version before serves, so that a host that dies comes back with that one alone.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Callable

import msgspec
import structlog

from agent.bus import endpoints
from agent.serving import deployer, desired, host, replica, trials, verdict
from protocol import problems, serving

log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""How often a step is judged."""

ANSWER_S = 5.0
"""What a version that is compared has not answered by then, the one before does."""
_DIED = "one of its replicas has died"

Tell = Callable[[serving.Shift], None]


class RolledBack(endpoints.Refusal):
    """The new version has shown that it is worse than the one that serves, which serves on."""

    def __init__(self, command: serving.DeployModel, percent: float, reason: str) -> None:
        where = f" at {percent:g} % of the requests" if percent else ""
        message = (
            f"version {command.version!r} of {command.name!r} was rolled back{where}: {reason}"
        )
        super().__init__(problems.Problem("denied", message[:2000]))
        self.reason = reason


class Rollout:
    """The way of one version."""

    def __init__(
        self, serves: host.Host, entry: desired.Entry, command: serving.DeployModel, tell: Tell
    ) -> None:
        self._host = serves
        self._entry = entry
        self._command = command
        self._tell = tell
        self.percent: float | None = None
        """Of the requests that it has; a shadow has none."""
        self.last: dict[str, float] = {}
        """What was measured of the metric, and in the last step."""

    async def run(self, wanted: desired.Wanted, before: desired.Wanted | None) -> None:
        """Bring a version that is started to where it may have all requests; raise a Refusal."""
        candidate = host.version(self._command.name, wanted)
        await self._try_out(candidate)
        if before is None or before.model.digest == wanted.model.digest:
            return  # there is nothing to compare it with
        if self._command.held_back is not None:
            await self._compare(host.version(self._command.name, before), candidate)
        if self._command.canary is not None:
            for percent in self._command.canary.steps:
                await self._step(self._command.canary, percent, wanted, candidate)
        if self._command.versus is not None:
            await self._versus(self._command.versus, wanted, candidate)

    def shift(self, phase: serving.ShiftPhase, percent: float, reason: str = "") -> None:
        """Tell where the requests go from now on."""
        before = self._entry.newest
        shift = serving.Shift(
            at=dt.datetime.now(dt.UTC),
            phase=phase,
            percent=percent,
            before=before.version if before else "",
            reason=reason,
            measured=self.last,
        )
        told = {"model": self._command.name, "version": self._command.version}
        log.info("endpoint.shifted", **told, phase=phase, percent=percent, reason=reason)
        self._tell(shift)

    async def _try_out(self, candidate: deployer.Version) -> None:
        if not self._command.rows:
            return
        body = msgspec.json.encode({"rows": self._command.rows})
        number, told = await self._host.deployer.answer(candidate.key, (body, None))
        if number != replica.OK:
            problem = msgspec.json.decode(told, type=problems.Problem)
            raise deployer.NotStarted(candidate.key, problem)

    async def _compare(self, before: deployer.Version, candidate: deployer.Version) -> None:
        """Compare both on the same rows; a version before that cannot be scored stops nothing."""
        asked = self._command.held_back
        assert asked is not None
        new = await self._score(candidate, asked)
        if isinstance(new, problems.Problem):
            raise deployer.NotStarted(candidate.key, new)
        old = await self._score(before, asked)
        if isinstance(old, problems.Problem) or not math.isfinite(old):
            log.warning("endpoint.not_compared", model=self._command.name, reason=str(old))
            self.last = {asked.metric: new}
            return
        self.last = {asked.metric: new, f"before_{asked.metric}": old}
        if verdict.is_worse(asked.metric, old, new, asked.max_worse):
            most = f"more than {asked.max_worse:.2%} worse than"
            reason = f"its {asked.metric} on the rows is {new:.6g}, {most} {old:.6g}"
            raise RolledBack(self._command, 0, reason)

    async def _score(
        self, version: deployer.Version, asked: serving.HeldBack
    ) -> float | problems.Problem:
        number, body = await self._host.deployer.score(version.key, asked)
        if number != replica.OK:
            return msgspec.json.decode(body, type=problems.Problem)
        score = msgspec.json.decode(body, type=float | None)
        return math.nan if score is None else score

    async def _step(
        self,
        terms: serving.Canary,
        percent: float,
        wanted: desired.Wanted,
        candidate: deployer.Version,
    ) -> None:
        """Give it a share of the requests, and look for as long as the step takes."""
        trial = self._host.share(self._entry, wanted, percent, terms.answer_s)
        self.percent = percent
        self.shift("canary", percent)
        try:
            await self._watch(terms, percent, trial, candidate)
        finally:
            await trial.close()

    async def _watch(
        self,
        terms: serving.Canary,
        percent: float,
        trial: trials.Trial,
        candidate: deployer.Version,
    ) -> None:
        """Judge a step again and again until it is over; raise RolledBack."""
        began = asyncio.get_running_loop().time()
        kept = self.last
        while True:
            await asyncio.sleep(LOOK_S)
            whole = await self._host.deployer.is_whole(candidate)
            elapsed_s = asyncio.get_running_loop().time() - began
            self.last = kept | verdict.measured(trial.before, trial.candidate)
            reason = verdict.why_back(terms, elapsed_s, trial.before, trial.candidate)
            if reason or not whole:
                raise RolledBack(self._command, percent, reason or _DIED)
            if verdict.is_enough(terms, elapsed_s, trial.candidate):
                return

    async def _versus(
        self, terms: serving.Versus, wanted: desired.Wanted, candidate: deployer.Version
    ) -> None:
        """Let both versions answer until outcomes tell which one is better."""
        trial = self._host.share(self._entry, wanted, terms.percent, ANSWER_S)
        self.percent = terms.percent
        with self._host.comparing(self._entry, wanted, terms) as compared:
            self.shift("versus", terms.percent)
            began = asyncio.get_running_loop().time()
            while True:
                await asyncio.sleep(LOOK_S)
                whole = await self._host.deployer.is_whole(candidate)
                self.last = compared.measured()
                if trial.candidate.lost or not whole:
                    raise RolledBack(self._command, terms.percent, trial.candidate.lost or _DIED)
                if compared.better == "new":
                    return
                elapsed_s = asyncio.get_running_loop().time() - began
                worse = "by its outcomes it is worse" if compared.better else None
                if reason := worse or compared.why_open(elapsed_s):
                    raise RolledBack(self._command, terms.percent, reason)
