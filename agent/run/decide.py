"""Owns the door to all decisions: one stimulus in, the events and effects it brings about out.

Nothing here changes the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.run import decide_commands, decide_timers, decide_work, moment, state, stimuli

Decision = decide_work.Decision

_DECIDERS: dict[type, Callable[[state.RunState, Any, moment.Moment], Decision]] = {
    stimuli.Taken: decide_commands.taken,
    stimuli.CancelAsked: decide_commands.cancel,
    stimuli.ResumeAsked: decide_commands.resumed,
    stimuli.Answered: decide_commands.answered,
    stimuli.WorkBegan: decide_work.began,
    stimuli.WorkSucceeded: decide_work.succeeded,
    stimuli.WorkFailed: decide_work.failed,
    stimuli.WorkStopped: decide_work.stopped,
    stimuli.WorkNoted: decide_work.noted,
    stimuli.TimerFired: decide_timers.fired,
}


def decide(run: state.RunState, stimulus: stimuli.Stimulus, at: moment.Moment) -> Decision:
    """Say what a stimulus brings about; late and repeated ones bring about nothing."""
    return _DECIDERS[type(stimulus)](run, stimulus, at)
