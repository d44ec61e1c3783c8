"""Owns what a stage is: a Struct of parameters with a `run`; its ports, context and faults."""

from __future__ import annotations

import inspect
import pathlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from stages import values

S = TypeVar("S", bound="type[Stage]")


class StageFault(Exception):
    """The stage cannot do its work."""

    code: ClassVar[str] = "code_fault"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, path: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.path = path
        """Into the stage's parameters, as `$.columns.alcohol`."""


class DataFault(StageFault):
    """The data is not what the stage can work with; trying again changes nothing."""

    code = "data_fault"


class NotAllowed(StageFault):
    """The parameters ask for something the configuration forbids."""

    code = "not_allowed"


class Transient(StageFault):
    """Something outside failed that may work a moment later."""

    code = "transient"
    retryable = True


class Cancelled(StageFault):
    """The run was cancelled while the stage was at work."""

    code = "cancelled"


class Services(msgspec.Struct, frozen=True):
    """What a stage's environment offers; set by the agent's configuration, never by a request."""

    tracking_uri: str = ""
    """MLflow tracking and registry URI."""
    nats_url: str = ""
    data_roots: tuple[str, ...] = ()
    """Folders that `file:` URIs may reach; relative paths start at the first."""
    closed: tuple[str, ...] = ()
    """Folders and files in them that may not be reached all the same: the agent's own."""
    allowed_schemes: tuple[str, ...] = ("file", "s3", "gs", "abfs", "http", "https")
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that URLs may name, where not empty; link-local and metadata addresses never."""
    secrets: tuple[str, ...] = ("MLPM_SECRET_*", "/run/secrets/*", "kv:*")
    """Environment variables, files and keys of the bucket that a request may refer to, as
    patterns."""
    secrets_bucket: str = ""
    """The bus's key-value bucket that keeps secrets."""
    nats_credentials: str | None = None
    nats_nkey_seed: str | None = None
    nats_tls_ca: str | None = None
    nats_tls_cert: str | None = None
    nats_tls_key: str | None = None
    max_input_bytes: int = 8 * 2**30
    """Of one source after decompression."""


DEFAULT_SERVICES = Services()


class Context:
    """What a stage may know and say while it runs: never the bus, the run or the agent."""

    def __init__(
        self,
        *,
        workdir: pathlib.Path | Callable[[], pathlib.Path],
        services: Services = DEFAULT_SERVICES,
        seed: int = 0,
        idempotency_key: str = "",
        epoch: int = 0,
        traceparent: str | None = None,
        lineage: Mapping[str, str] = types.MappingProxyType({}),
        report: Callable[[float | None, str, Mapping[str, float]], None] = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
        note: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
    ) -> None:
        self._workdir = workdir
        self.services = services
        self.seed = seed
        self.idempotency_key = idempotency_key
        """The same for every attempt of this stage in this run."""
        self.epoch = epoch
        """Of the run's owner that began this attempt: a later owner has a higher one."""
        self.traceparent = traceparent
        """W3C trace context of the request, for whatever the stage calls."""
        self.lineage = lineage
        """Facts worth keeping with a model: run, pipeline, code version, input digests."""
        self._report = report
        self._cancelled = cancelled
        self._note = note

    @property
    def workdir(self) -> pathlib.Path:
        """Give an empty folder for this attempt, made when first asked for, removed afterwards."""
        if not isinstance(self._workdir, pathlib.Path):
            self._workdir = self._workdir()
        return self._workdir

    def progress(self, fraction: float | None = None, message: str = "", **metrics: float) -> None:
        """Tell how far the work is (0 to 1); raise Cancelled if the run was cancelled."""
        self.check()
        self._report(fraction, message, metrics)

    def check(self) -> None:
        """Raise Cancelled if the run was cancelled; call it in long loops."""
        if self._cancelled():
            msg = "the run was cancelled"
            raise Cancelled(msg)

    def note(self, fact: str, **details: Any) -> None:
        """Tell a fact that belongs in the journal, as `registered` with model and version."""
        self._note(fact, details)


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of work: the fields are its parameters, `run` does it.

    `run` takes its input ports as parameters annotated with a kind of `stages.values` (or
    `list[...]` of one for a fan-in, or `... | None` for an optional port) and, if it wants it,
    `context: kit.Context`. It returns one value, or a NamedTuple of values whose fields are the
    output ports. Heavy libraries are imported inside `run`.
    """

    __stage__: ClassVar[Definition]

    def fingerprint(self, context: Context) -> str | None:  # noqa: ARG002 - for subclasses
        """Digest what the stage reads from outside its inputs; None means it cannot be cached.

        Called in the agent before the cache is asked, so it must be light. A stage that reads
        nothing from outside keeps this default.
        """
        return ""


class Port(msgspec.Struct, frozen=True):
    """An input or output: its name, its kind, whether it may be absent, whether it is a list."""

    name: str
    kind: str
    optional: bool = False
    many: bool = False


class Definition(msgspec.Struct, frozen=True):
    """What the rest of the system knows of a kind of stage."""

    name: str
    cls: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    summary: str
    libraries: tuple[str, ...] = ()
    """Distributions whose versions change what the stage makes; part of the cache key."""
    cacheable: bool = True
    effects: bool = False
    """It changes something outside (a registry, an endpoint): launched only once its start is
    journaled, never cached, and expected to use `context.idempotency_key`."""
    delegated: bool = False
    """It is carried out by another agent on the bus, as an ML-Training-Specialist, not by `run`."""
    cache_ignores: tuple[str, ...] = ()
    """Input ports whose content does not change the outputs."""
    takes_context: bool = False


def stage(
    name: str,
    *,
    libraries: tuple[str, ...] = (),
    cacheable: bool = True,
    effects: bool = False,
    delegated: bool = False,
    cache_ignores: tuple[str, ...] = (),
) -> Callable[[S], S]:
    """Define a kind of stage under its public name."""

    def define(cls: S) -> S:
        inputs, outputs, takes_context = _ports(cls)
        cls.__stage__ = Definition(
            name=name,
            cls=cls,
            inputs=inputs,
            outputs=outputs,
            summary=(inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
            libraries=libraries,
            cacheable=cacheable and not effects,
            effects=effects,
            delegated=delegated,
            cache_ignores=cache_ignores,
            takes_context=takes_context,
        )
        return cls

    return define


def _ports(cls: type[Stage]) -> tuple[tuple[Port, ...], tuple[Port, ...], bool]:
    run = cls.run  # type: ignore[attr-defined]
    hints = typing.get_type_hints(run)
    returned = hints.pop("return", type(None))
    takes_context = hints.pop("context", None) is not None
    return tuple(_port(n, h) for n, h in hints.items()), _output_ports(returned), takes_context


def _output_ports(returned: Any) -> tuple[Port, ...]:
    if returned is type(None):
        return ()
    fields = getattr(returned, "_fields", None)
    if fields is None:
        return (_port(returned.kind, returned),)
    hints = typing.get_type_hints(returned)
    return tuple(_port(field, hints[field]) for field in fields)


def _port(name: str, hint: Any) -> Port:
    optional = many = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        optional = True
        (hint,) = (a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is list:
        many = True
        (hint,) = typing.get_args(hint)
    if not (isinstance(hint, type) and issubclass(hint, values.Value)):
        msg = f"port {name!r} is annotated with {hint!r}, which is not a kind of stages.values"
        raise TypeError(msg)
    return Port(name, hint.kind, optional, many)
