"""Whatever happens to agents and wires: every run ends once, nothing finished is done again.

The real conductors run in a simulated world; what is checked is what the journal says afterwards.
That the check can fail is shown by breaking what it rests on.
"""

from __future__ import annotations

import datetime as dt

import hypothesis
import pytest
import structlog
from hypothesis import strategies as st

from agent.bus import journal
from agent.conductor import ledger
from protocol import codec, events
from scripts.chaos_parts import judge
from tests.ownership import memory, world

BROKEN = {"attempt.broke", "stimulus.not_taken"}
"""What is logged when one of our own parts raised."""

agents, runs = st.integers(0, 2), st.integers(0, 3)
faults = st.builds(
    world.Fault,
    at=st.floats(0.0, 12.0),
    agent=agents,
    kind=st.sampled_from(["kill", "freeze", "cut", "lose", "drain"]),
    lasts=st.sampled_from([0.2, 1.0, 2.5, 6.0]),
)
orders = st.builds(
    world.Order,
    at=st.floats(0.0, 12.0),
    agent=agents,
    run=runs,
    kind=st.sampled_from(["cancel", "approve", "resubmit"]),
)
scripts = st.builds(
    world.Script,
    seed=st.integers(0, 2**32),
    agents=st.integers(2, 3),
    runs=st.integers(1, 4),
    replicated=st.booleans(),
    skew_s=st.sampled_from([0.0, 0.0, 7.0, -7.0, 30.0]),
    faults=st.lists(faults, max_size=6),
    orders=st.lists(orders, max_size=4),
)
SETTINGS = {"deadline": None, "suppress_health_check": list(hypothesis.HealthCheck)}


def broken_promises(script: world.Script, kind: type[world.World] = world.World) -> list[str]:
    """Play a script, and list what is not as promised."""
    with structlog.testing.capture_logs() as logged:
        played = kind(script).play()
    found = [
        f"{one.broken}: {one.message}" for one in judge.examine(played.journals(), played.accepted)
    ]
    found += [f"stopped another's: {one}" for one in played.stolen]
    found += [f"announced, not stored: {one}" for one in played.unstored]
    found += [f"began unjournaled: {one}" for one in played.began if one.early]
    found += [f"logged: {one}" for one in logged if one["event"] in BROKEN]
    return found


@pytest.mark.slow
@pytest.mark.timeout(300)
@hypothesis.settings(max_examples=50, **SETTINGS)
@hypothesis.given(scripts)
def test_whatever_happens_every_run_ends_once_and_nothing_finished_is_done_again(script):
    assert broken_promises(script) == []


class Unguarded(memory.Stream):
    """A stream that does not look at the expected sequence."""

    def add(self, subject, data, headers):
        return super().add(subject, data, headers | {memory.EXPECTED: str(self._end(subject))})

    def _end(self, subject):
        return max((one.sequence for one in self.of(subject)), default=0)


class Numbered(journal.Journal):
    """Names an append by what two owners may have in common, as this journal once did."""

    async def append(self, run_id, data, *, expected):
        commit = codec.decode(data, events.Commit)
        headers = {
            memory.EXPECTED: str(expected),
            memory.MESSAGE_ID: f"{run_id}-{commit.number}-{commit.epoch}",
        }
        subject, stream = self._names.run_journal(run_id), self._names.journal_stream
        try:
            ack = await self._js.publish(subject, data, stream=stream, headers=headers)
        except journal.nats.js.errors.APIError as error:
            raise journal.Fenced(run_id, expected) from error
        except (journal.nats.errors.Error, TimeoutError) as error:
            raise journal.Unavailable("no answer") from error
        return ack.seq


class WithoutFence(world.World):
    stream_of = Unguarded


class WithSharedIds(world.World):
    journal_of = Numbered


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [WithoutFence, WithSharedIds])
def test_the_check_finds_a_broken_fence(kind):
    chosen = hypothesis.settings(
        max_examples=400,
        phases=[hypothesis.Phase.generate],
        derandomize=True,
        database=None,
        **SETTINGS,
    )
    found = hypothesis.find(scripts, lambda one: broken_promises(one, kind), settings=chosen)
    assert broken_promises(found) == []  # it is the broken part, and nothing else


WITHIN_S = world.LEASE_S * 4 / 3 + 0.3


@hypothesis.settings(max_examples=40, **SETTINGS)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    agent=st.integers(0, 1),
    at=st.floats(world.FIRST_AT_S, 4.0),
    kind=st.sampled_from(["kill", "freeze", "cut", "lose"]),
)
def test_a_run_has_another_owner_within_a_lease_and_a_third(seed, agent, at, kind):
    """A third: what its agent had just asked for may still be given to it."""
    faults = [world.Fault(at, agent, kind, 60.0)]
    played = world.World(world.Script(seed=seed, slow=False, faults=faults)).play()
    told = played.facts(played.accepted[0])
    taken = [one for one in told if isinstance(one, events.RunStarted | events.RunRecovered)]
    struck = world.EPOCH + dt.timedelta(seconds=at)
    late = [one for one in taken[1:] if (one.at - struck).total_seconds() > WITHIN_S]
    assert late == []
    assert {one.owner for one in taken[1:]} <= {f"agent{1 - agent}"}


TRAINING = 3


@pytest.mark.parametrize("agent", [0, 1])
def test_an_agent_that_wakes_to_a_time_limit_does_not_stop_its_successor_s_training(agent):
    faults = [world.Fault(1.6, agent, "freeze", 6.0)]
    for seed in range(20):
        script = world.Script(seed=seed, first=TRAINING, slow=False, faults=faults)
        assert broken_promises(script) == []


@pytest.mark.parametrize("kind", ["kill", "freeze", "cut", "lose"])
def test_a_new_run_is_not_left_with_an_agent_that_cannot_take_it(kind):
    faults = [world.Fault(0.45, 0, kind, 60.0)]
    for seed in range(10):
        played = world.World(world.Script(seed=seed, slow=False, faults=faults)).play()
        first = played.facts(played.accepted[0])[1]
        assert first.owner == "agent1"
        assert (first.at - world.EPOCH).total_seconds() - world.FIRST_AT_S < WITHIN_S


def test_a_request_that_comes_again_with_another_priority_makes_no_second_owner():
    again = [world.Order(at, 0, 0, "resubmit") for at in (0.7, 3.0)]
    for seed in range(20):
        played = world.World(world.Script(seed=seed, slow=False, orders=again)).play()
        told = played.facts(played.accepted[0])
        assert not [one for one in told if isinstance(one, events.RunRecovered)]


def test_nothing_is_decided_from_a_journal_with_a_gap():
    played = world.World(world.Script(slow=False)).play()
    commits = list(enumerate(played.journals()[played.accepted[0]], start=1))
    assert ledger.fold(commits, world.STAGES).machine.state.over
    with pytest.raises(ledger.JournalBroken) as broken:
        ledger.fold([commits[0], *commits[2:]], world.STAGES)
    assert broken.value.number == 2
