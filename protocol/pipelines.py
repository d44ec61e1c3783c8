"""Owns the specification of a pipeline: its stages, how they depend, and what to do on failure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from protocol import wire

Placement = Literal["ray", "agent", "swarm"]
CachePolicy = Literal["use", "refresh", "off"]
Operator = Literal[">=", ">", "<=", "<", "==", "!="]

Source = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_]{1,64})?$(?!\n)")]
"""An upstream output: `stage`, or `stage.port`."""


class Resources(wire.Command, frozen=True):
    """What one attempt of a stage needs: CPU and GPU counts, memory in bytes."""

    cpu: Annotated[float, msgspec.Meta(gt=0, le=1024)] = 1.0
    gpu: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 0.0
    memory_bytes: Annotated[int, msgspec.Meta(gt=0)] | None = None
    """Enforced in the worker; a stage that exceeds it fails with `out_of_memory`."""
    max_memory_bytes: Annotated[int, msgspec.Meta(gt=0)] | None = None
    """How far an out-of-memory retry may raise `memory_bytes` (doubling each time)."""


class Retry(wire.Command, frozen=True):
    """How often and how patiently a failed stage is tried again.

    The n-th wait is `backoff_s * factor ** (n - 1)`, at most `max_backoff_s`, varied by `jitter`.
    """

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    backoff_s: wire.Seconds = 1.0
    factor: Annotated[float, msgspec.Meta(ge=1)] = 2.0
    max_backoff_s: wire.Seconds = 60.0
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    codes: dict[str, Annotated[int, msgspec.Meta(ge=1, le=100)]] = {}
    """`max_attempts` by failure code, where it differs: `{"timeout": 1, "transient": 10}`."""


class Condition(wire.Command, frozen=True):
    """Run the stage only if a metric of an earlier stage (`stage.metric`) compares true."""

    metric: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\.[^\s]{1,128}$(?!\n)")]
    op: Operator
    value: float


class ForEach(wire.Command, frozen=True, rename={"into": "as"}):
    """Run the stage once per element of an upstream list; its outputs become lists."""

    items: Source
    into: str = "item"
    """The parameter or input port of the stage that receives the element."""
    min_success: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """The share of elements that must succeed; failed ones are quarantined and listed."""
    max_parallel: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Fallback(wire.Command, frozen=True):
    """When the stage has failed for good, run this stage and let its outputs stand in."""

    fallback: wire.Id


class Approval(wire.Command, frozen=True):
    """A gate before the stage: it waits until somebody approves or denies it."""

    prompt: str = ""
    timeout_s: wire.Seconds | None = None
    """After this the gate counts as denied; without it, it waits as long as the run may."""


class Stage(wire.Command, frozen=True, rename={"params": "with"}):
    """One step: `use` names the kind of work, `with` its parameters, `inputs` its data."""

    id: wire.Id
    use: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$(?!\n)", max_length=128)]
    params: dict[str, Any] = {}
    inputs: dict[str, Source] = {}
    needs: list[wire.Id] = []
    """Stages to wait for without taking data from them."""
    when: Condition | list[Condition] | None = None
    for_each: ForEach | None = None
    placement: Placement = "ray"
    resources: Resources = Resources()
    retry: Retry = Retry()
    timeout_s: wire.Seconds | None = None
    """Per attempt; the work is really stopped."""
    on_failure: Literal["fail", "skip"] | Fallback = "fail"
    approval: Approval | None = None
    cache: CachePolicy | None = None
    """Overrides the run's `options.cache`."""
    seed: int | None = None


class Pipeline(wire.Command, frozen=True):
    """A directed acyclic graph of stages."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
    stages: Annotated[list[Stage], msgspec.Meta(min_length=1)]
    version: str | None = None
    description: str | None = None


class Template(wire.Command, frozen=True, rename={"name": "template"}):
    """Let the agent design the stages from a template, its parameters and a profile of the data."""

    name: str
    params: dict[str, Any] = {}


class Options(wire.Command, frozen=True):
    """How one run is to be treated."""

    cache: CachePolicy = "use"
    deadline_s: wire.Seconds | None = None
    """From acceptance; a run past it is stopped and fails with `deadline_exceeded`."""
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5
    """9 is taken first."""
    max_parallel: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seed: int = 0
    labels: dict[str, str] = {}
