"""Owns why a training can't be done: each fault knows the problem it is sent as."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from protocol import problems


class TrainingFault(Exception):
    """The training cannot be done as asked."""

    code: problems.Code = "internal"
    retryable = False

    def __init__(self, message: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary with path and hint."""
        return (_rebuilt, (type(self), str(self), self.path, self.hint))

    def problem(self) -> problems.Problem:
        """Compose what is sent."""
        return problems.Problem(
            code=self.code,
            message=str(self),
            path=self.path,
            hint=self.hint,
            retryable=self.retryable,
        )


def _rebuilt(
    cls: type[TrainingFault], message: str, path: str | None, hint: str | None
) -> TrainingFault:
    fault = cls.__new__(cls)
    TrainingFault.__init__(fault, message, path=path, hint=hint)
    return fault


class BadRequest(TrainingFault):
    """A field of the request cannot be used."""

    code: problems.Code = "invalid_field"


class UnknownName(BadRequest):
    """A name is not on the list of what there is."""

    def __init__(self, what: str, name: str, known: Iterable[str], path: str) -> None:
        close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else None
        super().__init__(f"there is no {what} {name!r}", path=path, hint=hint)


class UnusableData(TrainingFault):
    """The training data cannot be learned from."""

    code: problems.Code = "data_fault"


class BadArtifact(TrainingFault):
    """The training data cannot be read, or is not what it claims to be."""

    code: problems.Code = "artifact_corrupt"


class StoreUnavailable(TrainingFault):
    """The artifact store cannot be reached, or takes no more, at the moment."""

    code: problems.Code = "unavailable"
    retryable = True


class AllTrialsFailed(TrainingFault):
    """Not one candidate could be fitted."""

    code: problems.Code = "data_fault"

    def __init__(self, reason: str) -> None:
        super().__init__(f"no candidate could be fitted: {reason}")


class WorkersLost(TrainingFault):
    """Workers died again and again under the same trial."""

    code: problems.Code = "worker_lost"
    retryable = True


class MemoryExceeded(TrainingFault):
    """A trial needed more memory than there is."""

    code: problems.Code = "out_of_memory"
    retryable = True


class DeadlineExceeded(TrainingFault):
    """The training took longer than it may."""

    code: problems.Code = "deadline_exceeded"

    def __init__(self, after_s: float) -> None:
        super().__init__(f"the training was stopped at its deadline, after {after_s:g} s")


class Conflict(TrainingFault):
    """The same training id was used for another request."""

    code: problems.Code = "conflict"

    def __init__(self, training_id: str) -> None:
        super().__init__(f"training {training_id} was requested before with other contents")
