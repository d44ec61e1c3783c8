"""Owns the translation of what a stage raises into a problem: by type, never by text."""

from __future__ import annotations

import errno
import traceback
from typing import Any, NamedTuple

import msgspec

from agent.artifacts import errors
from protocol import problems
from stages import kit, models, registry

MAX_MESSAGE = 2_000
MAX_TRACEBACK = 8_000
_FRAMES = 12
"""How many innermost frames of each exception are kept."""
_OURS = ("agent/execution/", "agent\\execution\\")


class BadItem(Exception):
    """The element of a fan-out cannot become the stage's parameter."""

    def __init__(self, into: str, kind: str) -> None:
        super().__init__(f"the element is a {kind} artifact, which parameter {into!r} cannot hold")
        self.into = into
        self.kind = kind


class ElementMissing(Exception):
    """The list of a fan-out is shorter than the plan thought."""

    def __init__(self, index: int, size: int) -> None:
        super().__init__(f"element {index} was asked of a list of {size}")
        self.index = index
        self.size = size


class BadOutput(Exception):
    """A stage returned something else than it says that it makes."""

    def __init__(self, port: str, kind: str, returned: Any) -> None:
        found = getattr(returned, "kind", type(returned).__name__)
        what = "nothing" if returned is None else f"a {found}"
        super().__init__(f"the stage returned {what}, not a {kind}, as its {port!r}")
        self.port = port
        self.kind = kind


class _Rule(NamedTuple):
    code: problems.Code
    retryable: bool = False
    hint: str | None = None


_RULES: list[tuple[tuple[type[BaseException], ...], _Rule]] = [
    (
        (MemoryError,),
        _Rule("out_of_memory", True, "give more memory_bytes, or a max_memory_bytes to grow to"),
    ),
    ((models.UntrustedModel, errors.ForeignArtifact), _Rule("not_allowed")),
    (
        (errors.StoreAway,),
        _Rule("unavailable", True, "mount or start the store again, then resume the run"),
    ),
    (
        (errors.StoreFull,),
        _Rule("unavailable", True, "let `mlpm gc` collect, or raise artifacts.max_bytes"),
    ),
    ((errors.StoreRefused,), _Rule("not_allowed", hint="docs/permissions.md lists what it takes")),
    ((errors.ArtifactCorrupt,), _Rule("artifact_corrupt", True)),
    ((errors.ArtifactMissing, ConnectionError, TimeoutError), _Rule("transient", True)),
    (
        (errors.ArtifactTooLarge,),
        _Rule("payload_too_large", hint="the agent's limits: max_artifact_bytes of the requester"),
    ),
    ((msgspec.ValidationError,), _Rule("invalid_field")),
    ((BadItem,), _Rule("type_mismatch")),
    ((BadOutput,), _Rule("code_fault")),
    (
        (registry.UnknownStage,),
        _Rule("unknown_stage", hint="the worker runs other code than the agent"),
    ),
]
_DISK_FULL = _Rule("transient", True, "free space on the worker's disk")


def problem_of(error: BaseException) -> problems.Problem:
    """Say what an exception means to whoever asked for the run."""
    if isinstance(error, kit.StageFault):
        code: Any = error.code
        rule = _Rule(code, error.retryable, error.hint)
        return _problem(rule, error, error.path)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _problem(_DISK_FULL, error)
    for kinds, rule in _RULES:
        if isinstance(error, kinds):
            return _problem(rule, error)
    return _code_fault(error)


def _problem(rule: _Rule, error: BaseException, path: str | None = None) -> problems.Problem:
    text = readable(str(error)[:MAX_MESSAGE]) or f"the stage raised {type(error).__name__}"
    return problems.Problem(
        rule.code,
        text,
        path=None if path is None else readable(path),
        hint=None if rule.hint is None else readable(rule.hint),
        retryable=rule.retryable,
    )


def _code_fault(error: BaseException) -> problems.Problem:
    hint = None
    if isinstance(error, ImportError) and error.name:
        package = error.name.partition(".")[0]
        hint = f"{package!r} is not installed where the stage runs; an extra may bring it"
    text = readable(f"{type(error).__name__}: {error}"[:MAX_MESSAGE])
    return problems.Problem("code_fault", text, hint=hint, traceback=shortened(error))


def shortened(error: BaseException) -> str:
    """Write a traceback, cause first, without the frames that lead into the stage."""
    text = "\n".join(_one(link) for link in _chain(error))
    return readable(text[-MAX_TRACEBACK:])


def readable(text: str) -> str:
    """Replace what cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _chain(error: BaseException) -> list[BaseException]:
    links = [error]
    while True:
        last = links[-1]
        before = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if before is None or before in links:
            return links[::-1]
        links.append(before)


def _one(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
    lines = traceback.format_list(frames[-_FRAMES:])
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def _is_ours(file: str) -> bool:
    return any(part in file for part in _OURS) and "tests" not in file
