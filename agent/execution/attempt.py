"""Owns one attempt of a stage in the current process: read, run, store, say how it went."""

from __future__ import annotations

import contextlib
import math
import numbers as numbers_
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from agent.artifacts import sources, store
from agent.execution import base, capture, faults
from agent.run import effects
from protocol import artifacts, diagnosis, problems
from stages import kit, registry, values

Report = Callable[[float | None, str, Mapping[str, float]], None]
Note = Callable[[str, Mapping[str, Any]], None]


class InvalidParameters(Exception):
    """The parameters are not what the stage takes."""

    def __init__(self, found: list[problems.Problem]) -> None:
        super().__init__("; ".join(f"{one.path}: {one.message}" for one in found))
        self.problem = problems.gather(found)


class Attempt:
    """One attempt: made, run once, thrown away."""

    def __init__(
        self,
        work: effects.Work,
        kept: store.Store,
        services: kit.Services,
        observer: Callable[[], capture.Observer],
        *,
        report: Report,
        note: Note,
        stopped: Callable[[], bool],
    ) -> None:
        self._work = work
        self._store = kept
        self._services = services
        self._observer = observer
        self._report = report
        self._note = note
        self._stopped = stopped
        self._tail = capture.Tail()

    def run(self) -> base.Outcome:
        """Do the work; whatever goes wrong is an outcome."""
        started = time.monotonic()
        observer = self._observer()
        try:
            with observer.watching(self._tail):
                outputs, metrics, code = self._do()
        except kit.Cancelled as error:
            if self._stopped():
                return base.Halted("asked", whereabouts())
            return self._failed(error)
        except InvalidParameters as invalid:
            return base.Failed(invalid.problem)
        except BaseException as error:  # noqa: BLE001 - a stage may fail in any way, and exit too
            return self._failed(error)
        spent = time.monotonic() - started
        return base.Succeeded(outputs, metrics, spent, observer.usage(), code_version=code)

    def _failed(self, error: BaseException) -> base.Failed:
        return base.Failed(faults.problem_of(error), faults.readable(self._tail.text()))

    def _do(self) -> tuple[dict[str, artifacts.ArtifactRef], dict[str, float], str]:
        definition = registry.get(self._work.use)
        params, inputs = self._gather(definition)
        stage = decode(definition, params)
        with contextlib.ExitStack() as folders:
            context = self._context(folders, definition)
            context.check()
            extra = {"context": context} if definition.takes_context else {}
            made = named(definition, stage.run(**inputs, **extra))  # type: ignore[attr-defined]
            context.check()
            outputs = self._stored(made)
        return outputs, metrics_of(made), sources.code_digest(definition)

    def _stored(self, made: Mapping[str, values.Value]) -> dict[str, artifacts.ArtifactRef]:
        most = self._work.max_artifact_bytes
        return {port: self._store.put(value, most) for port, value in made.items()}

    def _gather(self, definition: kit.Definition) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the inputs and put the element of a fan-out where it belongs."""
        ports = {port.name for port in definition.inputs}
        inputs = {port: self._read(ref) for port, ref in self._work.inputs.items()}
        params = dict(self._work.params)
        item, into = self._work.item, self._work.item_into
        if item is not None and into in ports:
            inputs[into] = self._store.get(item.source)
        elif item is not None and into is not None:
            params[into] = element(self._store, item, into)
        absent = {p.name: None for p in definition.inputs if p.optional}
        return params, absent | inputs

    def _read(self, ref: artifacts.Output) -> Any:
        if isinstance(ref, list):
            return [self._store.get(one) for one in ref]
        return self._store.get(ref)

    def _context(self, folders: contextlib.ExitStack, definition: kit.Definition) -> kit.Context:
        work = self._work
        return kit.Context(
            workdir=lambda: folders.enter_context(_workdir()),
            services=self._services,
            seed=work.seed,
            idempotency_key=work.idempotency_key,
            epoch=work.epoch,
            traceparent=work.traceparent,
            lineage=_lineage(work, definition),
            report=self._tell,
            cancelled=self._stopped,
            note=self._tell_fact,
        )

    def _tell(self, fraction: float | None, message: str, metrics: Mapping[str, float]) -> None:
        """Report only what can be written on the wire."""
        known = fraction is not None and math.isfinite(fraction)
        text = faults.readable(str(message))
        self._report(float(fraction or 0.0) if known else None, text, _finite(metrics))

    def _tell_fact(self, fact: str, details: Mapping[str, Any]) -> None:
        """Note plain data only; what cannot be written is the stage's fault, here and now."""
        self._note(fact, msgspec.json.decode(msgspec.json.encode(dict(details))))


def decode(definition: kit.Definition, params: Mapping[str, Any]) -> kit.Stage:
    """Make the stage of its parameters; raise InvalidParameters with every problem's path."""
    try:
        stage: kit.Stage = msgspec.convert(dict(params), definition.cls)
    except msgspec.ValidationError as error:
        found = diagnosis.diagnose(dict(params), definition.cls, "$.with")
        raise InvalidParameters(found or [diagnosis.from_error(error, "$.with")]) from error
    return stage


def element(kept: store.Store, item: effects.Item, into: str) -> Any:
    """Give the value of a fan-out's element as a parameter."""
    value: Any = kept.get(item.source)
    if not hasattr(value, "data"):
        raise faults.BadItem(into, item.source.kind)
    if item.index is None:
        return value.data
    if item.index >= len(value.data):
        raise faults.ElementMissing(item.index, len(value.data))
    return value.data[item.index]


def named(definition: kit.Definition, returned: Any) -> dict[str, values.Value]:
    """Give what a stage returned by output port; an optional output may be None."""
    several = hasattr(returned, "_fields")
    found: dict[str, values.Value] = {}
    for port in definition.outputs:
        value = getattr(returned, port.name, None) if several else returned
        if value is None and port.optional:
            continue
        if not isinstance(value, values.Value) or value.kind != port.kind:
            raise faults.BadOutput(port.name, port.kind, value)
        found[port.name] = value
    return found


def metrics_of(made: Mapping[str, values.Value]) -> dict[str, float]:
    """Gather the finite numbers of all metrics; others cannot be told on the wire."""
    found: dict[str, float] = {}
    for value in made.values():
        if isinstance(value, values.Metrics):
            found |= _finite(value.values)
    return found


def _finite(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is a number that JSON can carry."""
    return {
        faults.readable(str(name)): float(number)
        for name, number in numbers.items()
        if isinstance(number, numbers_.Real) and math.isfinite(number)
    }


def whereabouts() -> str:
    """Say which process this is."""
    return f"pid {os.getpid()} on {platform.node()}"


def digests(inputs: Mapping[str, artifacts.Output]) -> dict[str, str | list[str]]:
    """Give the digests of inputs by port."""
    return {
        port: [one.digest for one in ref] if isinstance(ref, list) else ref.digest
        for port, ref in inputs.items()
    }


def _lineage(work: effects.Work, definition: kit.Definition) -> dict[str, str]:
    facts = {
        "run": work.key.run_id,
        "pipeline": work.pipeline,
        "stage": work.key.stage,
        "use": work.use,
        "code_version": sources.code_digest(definition),
    }
    found = digests(work.inputs)
    return facts | {
        f"input.{port}": one if isinstance(one, str) else ",".join(one)
        for port, one in found.items()
    }


@contextlib.contextmanager
def _workdir() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="mlpm-", ignore_cleanup_errors=True) as folder:
        yield pathlib.Path(folder)
