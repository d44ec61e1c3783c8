"""Owns where attempts run: an executor for each place, behind the step cache and a price."""

from __future__ import annotations

from collections.abc import Callable

from agent import config, ground
from agent.artifacts import cache, store
from agent.audit import gate
from agent.bus import journal
from agent.execution import base, cached, delegates, in_agent, lines, pool, priced
from agent.run import effects
from agent.serving import deploying, keeper
from agent.swarm import executor, stance
from agent.training import delegation
from protocol import subjects

Executors = dict[effects.Placement, base.Executor]
Warn = Callable[[delegation.Severity, str, effects.Work], None]


class Workplaces:
    """Every place where the agent can have an attempt run."""

    def __init__(
        self,
        settings: config.Settings,
        *,
        found: ground.Ground,
        names: subjects.Subjects,
        artifacts: store.Store,
        steps: cache.Cache,
        journals: journal.Journal,
        line: lines.Lines,
        far: executor.SwarmExecutor,
        models: keeper.Keeper,
        warn: Warn,
        modules: tuple[str, ...],
    ) -> None:
        self._settings = settings
        self._services = services = settings.services(found.nats_url)
        self._store, self._steps, self._far = artifacts, steps, far
        self.on_ray = pool.RayExecutor(
            found.cluster,
            settings.ray,
            settings.artifacts_uri,
            settings.data_path / "artifact-copies",
            services,
            modules=modules,
            line=line,
            lease_s=settings.runs.lease_s,
        )
        training = delegation.SpecialistExecutor(
            found.nc,
            names,
            artifacts,
            settings.specialist,
            artifacts_uri=settings.artifacts_uri,
            tracking_uri=settings.tracking_uri,
            warn=warn,
        )
        auditor = gate.AuditorExecutor(found.nc, names, artifacts, journals, settings)
        deployer = deploying.DeployExecutor(artifacts, models, names)
        own: dict[str, base.Executor] = {gate.NAME: auditor, deploying.NAME: deployer}
        self._delegates = delegates.Delegates(own, training)
        self._here = in_agent.InAgentExecutor(artifacts, services)
        self.own: Executors = {
            "ray": self._caching(self.on_ray),
            "agent": self._caching(self._here),
            "training": self._caching(self._delegates),
        }
        """What runs with this agent, for itself and for the swarm."""

    def all(self, seen: stance.Stance) -> Executors:
        """Give every place; what runs on Ray counts as the agent's load."""
        elsewhere = cached.CachedExecutor(self._far, self._steps, self._store, self._services)
        return {**self.own, "ray": stance.Counted(self.own["ray"], seen), "swarm": elsewhere}

    def _caching(self, inner: base.Executor) -> base.Executor:
        caching = cached.CachedExecutor(inner, self._steps, self._store, self._services)
        price = self._settings.price_per_cpu_hour
        return priced.PricedExecutor(caching, price) if price else caching

    async def recall(self, work: effects.Work) -> None:
        """Have stopped what a lost agent asked others for."""
        asked = self._far if work.placement == "swarm" else self._delegates
        await asked.recall(work)

    def executors(self) -> tuple[base.Executor, ...]:
        """Give each that has to be closed, the nearest first."""
        return self.on_ray, self._here, self._delegates, self._far
