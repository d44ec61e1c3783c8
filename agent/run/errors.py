"""Owns the errors of the run core: commands that a run refuses, and its own defects."""

from __future__ import annotations

from collections.abc import Sequence

from protocol import problems


class RunCoreError(Exception):
    """The root of the room's errors."""


class InvalidPipeline(RunCoreError):
    """The pipeline cannot be run; `problems` says everything that is wrong with it."""

    def __init__(self, found: Sequence[problems.Problem]) -> None:
        super().__init__("; ".join(f"{p.path}: {p.message}" for p in found[:5]))
        self.problems = list(found)


class Refused(RunCoreError):
    """A command does not fit the run as it stands; nothing has changed."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class IllegalTransition(RunCoreError):
    """An event met a state that has no arrow for it: a defect, told with the recent story."""

    def __init__(
        self, run_id: str, stage: str | None, state: str, event: str, story: Sequence[str]
    ) -> None:
        who = f"stage {stage!r} of run {run_id}" if stage else f"run {run_id}"
        super().__init__(f"{who} is {state} and cannot take {event}; before: {', '.join(story)}")
        self.run_id = run_id
        self.stage = stage
        self.state = state
        self.event = event
        self.story = tuple(story)
