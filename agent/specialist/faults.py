"""Owns why a training can't be done: each fault knows the problem it is sent as."""

from __future__ import annotations

import msgspec

from protocol import problems
from stages import kit


class TrainingFault(Exception):
    """The training cannot be done as asked."""

    code: problems.Code = "internal"
    retryable = False

    def __init__(self, message: str, *, path: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary with its attributes."""
        return (_rebuilt, (type(self), str(self), self.__dict__))

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
    cls: type[TrainingFault], message: str, attributes: dict[str, object]
) -> TrainingFault:
    fault = cls.__new__(cls)
    TrainingFault.__init__(fault, message)
    fault.__dict__ |= attributes
    return fault


class BadRequest(TrainingFault):
    """A field of the request cannot be used."""

    code: problems.Code = "invalid_field"


class Refused(TrainingFault):
    """The framework says why it cannot; its code, path and hint are passed on."""

    def __init__(self, fault: kit.StageFault) -> None:
        super().__init__(str(fault), path=fault.path, hint=fault.hint)
        self.code = msgspec.convert(fault.code, problems.Code)
        self.retryable = fault.retryable


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
