"""Owns the deployer on Ray Serve: an application for each version, asked without Serve's proxy.

A version is never updated into another, since one whose constructor raises would take the one that
serves down: it is started beside it, and the requests are moved over here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agent.serving import deployer, replica, routes, trials
from protocol import artifacts, problems, serving

START_S = 120.0
DRAIN_S = 30.0
"""How long what a version was asked is waited for before it is stopped."""
HEALTH_S = 1.0
"""How often Serve looks whether a replica is there, which nobody may be asking just then."""
_LOOK_S = 0.05
_CPUS = 0.01
"""Of a replica, to Ray: a model waits most of the time, and must find a place beside its like."""
_DEPLOYMENT = "model"

Locate = Callable[[artifacts.ArtifactRef], replica.Place]


class _Live:
    """A version that is started."""

    def __init__(self, version: deployer.Version, handle: Any, about: replica.About) -> None:
        self.version = version
        self.handle = handle
        self.about = about
        self.route = routes.Route(version.key, handle.predict.remote, version.replicas)


class RayServe:
    """Deploys to the Ray cluster that this process has joined."""

    def __init__(self, prefix: str, locate: Locate) -> None:
        self._prefix = prefix
        self._locate = locate
        self._router = routes.Router()
        self._live: dict[str, _Live] = {}
        self._hand = concurrent.futures.ThreadPoolExecutor(1, "serve")
        """One thread: what is deleted was created before, whoever was interrupted meanwhile."""

    async def open(self) -> None:
        """Start Serve, or join it where it runs; its proxies are not wanted."""
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # which the import sets, too
        await self._call(serve.start, proxy_location="Disabled")

    async def close(self) -> None:
        """Wait for what Serve is asked just now, before the cluster is taken away from it."""
        self._hand.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._hand.shutdown)

    async def start(self, version: deployer.Version) -> replica.About:
        """Start a version, or resize it; raise NotStarted."""
        live = self._live.get(version.key)
        if live is not None and live.version.replicas == version.replicas:
            return live.about
        try:
            about = await self._started(version)
        except BaseException:
            if live is None:
                await self._delete(version.key)
            raise
        return about

    async def answer(self, key: str, question: replica.Question) -> replica.Answer:
        """Ask a version that may not serve yet."""
        return await self._live[key].route.ask(question)

    async def score(self, key: str, held_back: serving.HeldBack) -> replica.Answer:
        """Have a version score itself."""
        handle = self._live[key].handle
        number, body = await handle.score.remote(msgspec.json.encode(held_back))
        return number, body

    async def is_whole(self, version: deployer.Version) -> bool:
        """Tell whether all replicas of a version run."""
        return await self._call(self._running, version.key) >= version.replicas

    def shift(self, name: str, weights: Mapping[str, float]) -> None:
        """Give each version its share of the requests."""
        shares = {self._live[key].route: weight for key, weight in weights.items()}
        self._router.shift(name, shares)

    def share(
        self, name: str, before: str, candidate: str, percent: float, answer_s: float
    ) -> trials.Trial:
        """Give a version its part of the requests."""
        old, new = self._live[before].route, self._live[candidate].route
        trial = trials.Trial(old, new, percent, answer_s)
        self._router.try_out(name, trial)
        return trial

    async def stop(self, key: str) -> None:
        """Stop a version once what it was asked is answered; one that hangs is not waited for."""
        live = self._live.pop(key, None)
        if live is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    await live.route.wait_idle()
        await self._delete(key)

    async def ask(self, name: str, question: replica.Question, key: str = "") -> deployer.Told:
        """Ask a model."""
        version, answer = await self._router.ask(name, question, key)
        return deployer.Told(version, *answer)

    async def _started(self, version: deployer.Version) -> replica.About:
        handle = await self._run(version)
        told = await handle.describe.remote()
        about = msgspec.json.decode(told, type=replica.About)
        if about.problem is not None:
            raise deployer.NotStarted(version.key, about.problem)
        self._live[version.key] = _Live(version, handle, about)
        return about

    async def _run(self, version: deployer.Version) -> Any:
        from ray import serve

        place = msgspec.json.encode(self._locate(version.model))
        made: Any = serve.deployment(replica.Replica)
        made = made.options(
            name=_DEPLOYMENT,
            num_replicas=version.replicas,
            max_ongoing_requests=2 * routes.AT_WORK_EACH,
            ray_actor_options={"num_cpus": _CPUS},
            logging_config={"enable_access_log": False, "log_level": "WARNING"},
            health_check_period_s=HEALTH_S,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=5.0,
        )
        app = self._app(version.key)
        target = serve.RunTarget(made.bind(place), name=app, route_prefix=None)
        run: Any = serve.run_many
        (handle,) = await self._call(run, [target], wait_for_applications_running=False)
        await self._wait_running(version.key)
        return handle

    async def _wait_running(self, key: str) -> None:
        try:
            async with asyncio.timeout(START_S):
                while True:
                    state, message = await self._call(self._state, key)
                    if state == "RUNNING":
                        return
                    if state in {"DEPLOY_FAILED", "UNHEALTHY"}:
                        raise deployer.NotStarted(key, _unavailable(message))
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            message = f"it did not start within {START_S:g} s: {message or state}"
            raise deployer.NotStarted(key, _unavailable(message)) from None

    def _state(self, key: str) -> tuple[str, str]:
        from ray import serve

        found = serve.status().applications.get(self._app(key))
        return (found.status.value, found.message) if found else ("NOT_STARTED", "")

    def _running(self, key: str) -> int:
        from ray import serve

        found = serve.status().applications.get(self._app(key))
        told = found.deployments.get(_DEPLOYMENT) if found else None
        return told.replica_states.get("RUNNING", 0) if told else 0

    async def _delete(self, key: str) -> None:
        from ray import serve

        await self._call(serve.delete, self._app(key))

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._hand, functools.partial(function, *args, **options))

    def _app(self, key: str) -> str:
        return f"mlpm-{self._prefix}-{key}"


def _unavailable(message: str) -> problems.Problem:
    return problems.Problem("unavailable", message[:1000], retryable=True)
