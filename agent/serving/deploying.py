"""Owns the carrying out of `deploy.model`: the executor that has a serving host do it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Any, TypeVar, cast

import msgspec
import nats.errors

from agent import tasks
from agent.artifacts import store
from agent.execution import base, faults
from agent.run import effects
from agent.serving import inputs, keeper
from protocol import artifacts, codec, problems, serving, subjects
from stages import kit, models, values
from stages.deploy import model as deploy
from stages.evaluate import scores

T = TypeVar("T", bound=msgspec.Struct)

NAME = deploy.NAME
_AWAY = "what deploys it has not answered; the same deployment asked for again is not made twice"


class NoRows(kit.DataFault):
    """There is nothing to compare the versions on."""

    def __init__(self) -> None:
        super().__init__("max_worse takes the input rows", path="$.with.max_worse")


class DeployExecutor:
    """Runs deployments: asks a serving host until it has done it, or says why not."""

    def __init__(self, kept: store.Store, host: keeper.Keeper, names: subjects.Subjects) -> None:
        self._store = kept
        self._keeper = host
        self._names = names
        self._asking: dict[effects.WorkKey, asyncio.Task[base.Outcome]] = {}
        self._keys: dict[effects.WorkKey, str] = {}

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Have one model deployed."""
        watcher.began()
        task = asyncio.create_task(self._deployed(work, watcher), name="deploy")
        self._asking[work.key], self._keys[work.key] = task, work.idempotency_key
        try:
            await asyncio.wait({task})
            return base.Halted("asked") if task.cancelled() else task.result()
        finally:
            del self._asking[work.key], self._keys[work.key]
            await tasks.end(task)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:  # noqa: ARG002 - it ends at once
        """Have the host stop it: only then nothing of it is under way."""
        task = self._asking.get(key)
        if task is None:
            return
        command = serving.HaltDeploy(self._keys[key])
        with contextlib.suppress(nats.errors.Error, TimeoutError, keeper.Refused):
            told = await self._keeper.tell("halt", command)
            if told is not None and not codec.decode(told, serving.DeployHalted).halted:
                # It is done, or was never begun: what was asked for last says which.
                await asyncio.wait({task}, timeout=keeper.ASK_S)
        task.cancel()

    async def close(self) -> None:
        """Stop waiting; the host goes on, and the run's next owner attaches."""
        await tasks.end(*self._asking.values())

    async def _deployed(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        started = time.monotonic()
        stage = msgspec.convert(dict(work.params), deploy.Deploy)
        try:
            command = await asyncio.to_thread(self._command, work, stage)
            longest_s = stage.longest_s
            done, measured = await self._asked(command, longest_s, watcher)
        except keeper.Refused as refused:
            return base.Failed(refused.problem)
        except (keeper.NoHost, nats.errors.Error, TimeoutError) as error:
            message = str(error) or f"it does not serve after {longest_s:g} s: {_AWAY}"
            return base.Failed(problems.Problem("unavailable", message, retryable=True))
        except Exception as error:  # noqa: BLE001 - what was given cannot be read
            return base.Failed(faults.problem_of(error))
        told = {"model": command.name, "version": command.version, "url": done.url}
        told["subject"] = self._names.predict(command.name)
        watcher.note("deployed", told)
        report = values.Report(_report(command, told) | {"measured": measured})
        outputs = {"report": await asyncio.to_thread(self._store.put, report)}
        return base.Succeeded(outputs, measured, time.monotonic() - started)

    async def _asked(
        self, command: serving.DeployModel, longest_s: float, watcher: base.Watcher
    ) -> tuple[serving.Endpoint, dict[str, float]]:
        """Ask until it is done, and note each shift; give what was measured last, too."""
        end, measured = time.monotonic() + longest_s, dict[str, float]()
        while True:
            reply = await self._keeper.ask("deploy", command, end - time.monotonic())
            told = codec.decode(reply, serving.Deployment)
            for shift in told.shifts:
                watcher.note("shifted", _noted(command, shift))
                command = msgspec.structs.replace(command, since=shift.at)
                measured = shift.measured
            if not told.under_way:
                return told.endpoint, measured

    def _command(self, work: effects.Work, stage: deploy.Deploy) -> serving.DeployModel:
        model = _single(work.inputs["model"])
        return serving.DeployModel(
            name=stage.name,
            version=self._version(work, model),
            model=model,
            replicas=stage.replicas,
            rows=self._rows(work, model, stage.try_rows),
            key=work.idempotency_key,
            run_id=work.key.run_id,
            epoch=work.epoch,
            canary=_terms(stage.canary, serving.Canary),
            versus=_terms(stage.versus, serving.Versus),
            held_back=self._held_back(work, model, stage),
            keep_s=stage.keep_s,
            asker=uuid.uuid4().hex,
        )

    def _version(self, work: effects.Work, model: artifacts.ArtifactRef) -> str:
        registered = work.inputs.get("registered")
        data = getattr(self._store.get(_single(registered)), "data", {}) if registered else {}
        return str(data.get("version") or model.digest[7:19])

    def _held_back(
        self, work: effects.Work, model: artifacts.ArtifactRef, stage: deploy.Deploy
    ) -> serving.HeldBack | None:
        if stage.max_worse is None:
            return None
        rows = work.inputs.get("rows")
        if rows is None:
            raise NoRows
        task = cast("models.Model", self._store.get(model)).card.task
        metric = stage.metric or scores.DEFAULTS[task]
        return serving.HeldBack(table=_single(rows), metric=metric, max_worse=stage.max_worse)

    def _rows(
        self, work: effects.Work, model: artifacts.ArtifactRef, count: int
    ) -> list[serving.Row]:
        """Read the rows that the version has to predict first, as a request would have them."""
        given = work.inputs.get("rows")
        if given is None:
            return []
        card = cast("models.Model", self._store.get(model)).card
        table = cast("values.Table", self._store.get(_single(given)))
        names = [column.name for column in card.columns]
        few = table.arrow.select(names).slice(0, count).to_pylist()
        return [{name: inputs.plain(value) for name, value in row.items()} for row in few]


def _terms(chosen: msgspec.Struct | None, kind: type[T]) -> T | None:
    return None if chosen is None else msgspec.convert(msgspec.to_builtins(chosen), kind)


def _noted(command: serving.DeployModel, shift: serving.Shift) -> dict[str, Any]:
    told = ("before", "phase", "percent", "reason", "measured")
    about = {"model": command.name, "version": command.version}
    return about | {name: getattr(shift, name) for name in told}


def _report(command: serving.DeployModel, told: dict[str, str]) -> dict[str, Any]:
    return {
        "title": f"{command.name} version {command.version} serves",
        "summary": told["url"],
        **told,
        "digest": command.model.digest,
        "replicas": command.replicas,
    }


def _single(output: artifacts.Output) -> artifacts.ArtifactRef:
    return output[0] if isinstance(output, list) else output
