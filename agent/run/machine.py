"""Owns the loop of the run core: decide, evolve, follow, until the run is quiet."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from agent.run import (
    decide,
    decide_next,
    effects,
    errors,
    evolve,
    follow,
    moment,
    plan,
    state,
    stimuli,
)
from protocol import events

Refused = errors.Refused
Handled = tuple[list[events.AnyEvent], list[effects.Effect]]


class Machine:
    """One run, decided.

    The law: what happens is a function of the state and the stimulus alone; the state is the fold
    of the events and nothing else; effects follow from what has happened and change nothing here.
    So a machine that has folded a journal stands exactly where the one that wrote it stood. Every
    event that is returned has been folded in; the caller stores it before anybody is told, and
    sends back what comes of the effects. Nothing is started unless this machine holds the run:
    from `Taken` until it returns `Park` or `End`. The cost of a stimulus is that of the stages it
    touches, whatever the size of the graph.
    """

    def __init__(self, plan_: plan.Plan, run: state.RunState) -> None:
        self.plan = plan_
        self.state = run
        self.window: int | None = None
        """How many may be at work before further elements of a fan-out wait their turn here: more
        than this agent has places for. What is started is a fact, this is not."""
        self.held = False
        """This agent is the one that carries out the effects."""

    @classmethod
    def from_events(cls, plan_: plan.Plan, history: Iterable[events.AnyEvent]) -> Machine:
        """Make the machine of a journal, whose first event is the acceptance."""
        walk = iter(history)
        accepted = next(walk)
        if not isinstance(accepted, events.RunAccepted):
            message = f"a journal begins with RunAccepted, not {type(accepted).__name__}"
            raise TypeError(message)
        machine = cls(plan_, state.RunState.from_accepted(accepted, plan_))
        machine.fold(walk)
        return machine

    def fold(self, history: Iterable[events.AnyEvent]) -> None:
        """Replay events that are stored already; nothing is decided and nothing follows."""
        for event in history:
            evolve.evolve(self.state, event)

    def handle(self, stimulus: stimuli.Stimulus, now: dt.datetime, cause: str) -> Handled:
        """Take one stimulus; Refused leaves everything as it was."""
        at = moment.Moment(now, cause)
        idle = not self.held and (self.state.run == "queued" or self.state.parked)
        decided, wanted = decide.decide(self.state, stimulus, at)
        if isinstance(stimulus, stimuli.Taken):
            self.held = not self.state.over
        happened, followed = self._apply(decided)
        cancelled = idle and isinstance(stimulus, stimuli.CancelAsked)
        more, then = self._settle(at) if self.held or cancelled else ([], [])
        return [*happened, *more], [*wanted, *followed, *then]

    def absorb(self, history: Iterable[events.AnyEvent], now: dt.datetime, cause: str) -> Handled:
        """Fold what another agent appended to a run that this one holds, and go on from there.

        The events returned are the new ones; the effects include those of the absorbed.
        """
        _, followed = self._apply(history)
        more, then = self._settle(moment.Moment(now, cause)) if self.held else ([], [])
        return more, [*followed, *then]

    def _apply(self, decided: Iterable[events.AnyEvent]) -> Handled:
        happened: list[events.AnyEvent] = []
        wanted: list[effects.Effect] = []
        for event in decided:
            evolve.evolve(self.state, event)
            happened.append(event)
            wanted += follow.follow(self.state, event)
        return happened, wanted

    def _settle(self, at: moment.Moment) -> Handled:
        """Let follow what needs no stimulus."""
        happened: list[events.AnyEvent] = []
        wanted: list[effects.Effect] = []
        while more := decide_next.advance(self.state, at, self.window):
            events_, effects_ = self._apply(more)
            happened += events_
            wanted += effects_
        parked = decide_next.park(self.state, at) if self.held else None
        self.held = self.held and parked is None and not self.state.over
        return happened, [*wanted, parked] if parked else wanted
