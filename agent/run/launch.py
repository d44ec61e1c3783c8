"""Owns turning a started attempt into the work that an executor gets."""

from __future__ import annotations

import datetime as dt
import hashlib

import msgspec

from agent.run import effects, shapes, state, times, units
from protocol import artifacts, pipelines


def launch(run: state.RunState, unit: units.Unit, *, adopted: bool = False) -> effects.Launch:
    """Make the effect for the attempt that has just been started, or found at work.

    What is found is gone on with once the journal says whose it is: two may have found it.
    """
    spec = run.spec(unit)
    kind = run.plan.kinds[unit.stage]
    stage = run.stages[unit.stage]
    work = effects.Work(
        key=run.key(unit),
        use=spec.use,
        placement="training" if kind.delegated else spec.placement,
        params=run.params[unit.stage],
        inputs=inputs(run, unit.stage),
        item=item(run, unit),
        item_into=spec.for_each.into if spec.for_each else None,
        resources=_resources(spec, unit),
        cache=_cache(run, spec, stage),
        seed=run.accepted.options.seed if spec.seed is None else spec.seed,
        epoch=run.epoch,
        pipeline=run.plan.pipeline.name,
        idempotency_key=idempotency_key(run, unit),
        deadline=_deadline(run, spec, unit),
        traceparent=run.accepted.traceparent,
        max_artifact_bytes=run.accepted.bounds.max_artifact_bytes,
        heritable=True,
        adopt=adopted,
    )
    return effects.Launch(work, after_commit=kind.effects or adopted)


def inputs(run: state.RunState, index: int) -> dict[str, artifacts.Output]:
    """Gather the inputs by port; optional ones that nobody filled are left out."""
    found: dict[str, artifacts.Output] = {}
    for binding in run.plan.bindings[index]:
        value = _value(run, binding)
        if value is None:
            continue
        single = binding.many and not isinstance(value, list)
        found[binding.port] = [value] if single else value  # type: ignore[list-item]
    return found


def _value(run: state.RunState, binding: shapes.Binding) -> artifacts.Output | None:
    source = run.stand_in(binding.source)
    return source.outputs.get(binding.source_port) if source.state == "succeeded" else None


def width(run: state.RunState, index: int) -> int | None:
    """Count the elements that a stage is to be fanned out over; None where nobody knows."""
    items = run.plan.items[index]
    value = None if items is None else _value(run, items)
    if value is None:
        return None
    return len(value) if isinstance(value, list) else value.rows


def item(run: state.RunState, unit: units.Unit) -> effects.Item | None:
    """Give the element that a unit works on."""
    items = run.plan.items[unit.stage]
    if items is None or unit.element is None:
        return None
    value = _value(run, items)
    assert value is not None
    if isinstance(value, list):
        return effects.Item(value[unit.element], None)
    return effects.Item(value, unit.element)


def idempotency_key(run: state.RunState, unit: units.Unit) -> str:
    """Name what is being done: the same for every attempt until a resume changes what goes in."""
    spec = run.spec(unit)
    generation = run.stages[unit.stage].generation
    facts = (run.accepted.run_id, spec.id, str(unit.element), str(generation))
    digest = hashlib.blake2b("\0".join(facts).encode(), digest_size=16).hexdigest()
    return f"{spec.id[:24]}-{digest}"


def _resources(spec: pipelines.Stage, unit: units.Unit) -> pipelines.Resources:
    if unit.memory == spec.resources.memory_bytes:
        return spec.resources
    return msgspec.structs.replace(spec.resources, memory_bytes=unit.memory)


def _cache(
    run: state.RunState, spec: pipelines.Stage, stage: units.StageRun
) -> pipelines.CachePolicy:
    policy = spec.cache or run.accepted.options.cache
    return "refresh" if stage.refresh and policy == "use" else policy


def _deadline(run: state.RunState, spec: pipelines.Stage, unit: units.Unit) -> dt.datetime | None:
    ends = [run.deadline] if run.deadline else []
    if spec.timeout_s is not None and unit.attempt_at:
        ends.append(times.after(unit.attempt_at, spec.timeout_s))
    return min(ends, default=None)
