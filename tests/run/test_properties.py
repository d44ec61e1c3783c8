from __future__ import annotations

import collections

import hypothesis
import msgspec
from hypothesis import strategies as st

from agent.run import effects, errors, machine, stimuli, transitions, view
from protocol import events, pipelines, problems
from tests.run import theatre

CODES = ["transient", "code_fault", "preempted", "out_of_memory", "worker_lost"]
TERMINAL = (events.RunSucceeded, events.RunFailed, events.RunCancelled)


@st.composite
def pipelines_(draw) -> list[pipelines.Stage]:
    """Draw stages that depend on earlier ones in every way there is; a fallback comes last."""
    count = draw(st.integers(1, 7))
    spare = draw(st.booleans())
    stages = [pipelines.Stage("s0", "list")]
    for i in range(1, count):
        earlier = [s for s in stages if s.use == "maybe"]
        fields = {
            "needs": draw(st.lists(st.sampled_from([s.id for s in stages]), max_size=2)),
            "timeout_s": draw(st.sampled_from([None, None, 5.0])),
            "retry": pipelines.Retry(max_attempts=draw(st.integers(1, 3))),
            "resources": pipelines.Resources(memory_bytes=10, max_memory_bytes=30),
            "on_failure": draw(st.sampled_from(["fail", "skip"])),
            "approval": draw(st.sampled_from([None, None, pipelines.Approval(timeout_s=7)])),
        }
        if draw(st.booleans()):
            source = draw(st.sampled_from(stages)).id
            fields["when"] = pipelines.Condition(f"{source}.m", ">", 0.5)
        plain = [s.id for s in earlier if s.for_each is None]
        fanned = [s.id for s in earlier if s.for_each is not None]
        shape = draw(st.sampled_from(["plain", "list", "chain"]))
        quorum = draw(st.sampled_from([0.0, 0.5, 1.0]))
        if shape == "list":
            each = pipelines.ForEach("s0", "x", quorum, draw(st.sampled_from([None, 2])))
            stage = pipelines.Stage(f"s{i}", "maybe", for_each=each, **fields)
        elif shape == "chain" and fanned:
            each = pipelines.ForEach(draw(st.sampled_from(fanned)), "table", quorum)
            stage = pipelines.Stage(f"s{i}", "maybe", for_each=each, **fields)
        else:
            inputs = {"table": draw(st.sampled_from(plain))} if plain else {}
            if spare and draw(st.booleans()):
                spare = False
                fields["on_failure"] = pipelines.Fallback("spare")
            stage = pipelines.Stage(f"s{i}", "maybe", inputs=inputs, **fields)
        stages.append(stage)
    users = [s for s in stages if isinstance(s.on_failure, pipelines.Fallback)]
    return [*stages, pipelines.Stage("spare", "maybe")] if users else stages


class Play:
    """Random faults for a while, then everything that is asked for goes well."""

    def __init__(self, stages, options, data) -> None:
        self.world = theatre.Theatre(*stages, options=options, rows=data.draw(st.integers(0, 4)))
        self.data = data
        self.ended = 0
        self.sent: list[stimuli.Stimulus] = []

    def send(self, stimulus: stimuli.Stimulus) -> None:
        self.sent.append(stimulus)
        self.note(self.world.send(stimulus))

    def note(self, lines: list[str]) -> None:
        self.ended += sum(text.startswith("> End") for text in lines)

    def fault(self) -> None:
        world = self.world
        wanted = self.data.draw(
            st.sampled_from(["ok", "ok", "fail", "stop", "tick", "crash", "again", "cancel"])
        )
        if wanted == "crash":
            self.note(world.crash())
        elif wanted == "again" and self.sent:
            stimulus = self.data.draw(st.sampled_from(self.sent))
            before = len(world.log)
            if not isinstance(stimulus, stimuli.CancelAsked | stimuli.Answered):
                self.note(world.send(stimulus))
                if not isinstance(stimulus, stimuli.TimerFired):
                    assert len(world.log) == before
        elif wanted == "cancel" and self.data.draw(st.integers(0, 4)) == 0:
            self.send(stimuli.CancelAsked("me", grace_s=1))
        elif wanted == "tick" and world.timers:
            self.note(world.tick())
        elif world.live:
            self.end(wanted)
        elif world.machine.state.waiting:
            self.answer()

    def end(self, wanted: str) -> None:
        world = self.world
        key = self.data.draw(st.sampled_from(sorted(world.live, key=str)))
        del world.live[key]
        if wanted == "fail":
            code = self.data.draw(st.sampled_from(CODES))
            self.send(stimuli.WorkFailed(key, problems.Problem(code, "!")))
        elif wanted == "stop":
            self.send(stimuli.WorkStopped(key, "asked", "w"))
        else:
            metrics = self.data.draw(st.sampled_from([{}, {"m": 0.0}, {"m": 1.0}]))
            self.send(stimuli.WorkSucceeded(key, world.outputs(key), metrics))

    def answer(self) -> None:
        world = self.world
        name = world.plan.stages[next(iter(world.machine.state.waiting))].id
        self.send(stimuli.Answered(name, approved=self.data.draw(st.booleans()), by="me"))
        if not world.machine.held and not world.machine.state.over:
            self.note(world.take())

    def finish(self) -> None:
        """Let everything go well, whatever is asked; a person answers every gate."""
        world = self.world
        for _ in range(400):
            if world.machine.state.over:
                return
            if world.live:
                key = min(world.live, key=str)
                del world.live[key]
                self.send(stimuli.WorkSucceeded(key, world.outputs(key)))
            elif world.machine.state.waiting:
                self.answer()
            else:
                self.note(world.tick())
        raise AssertionError(view.status(world.machine.state))


def check_order(world: theatre.Theatre) -> None:
    """No attempt begins before what it depends on has ended, and none after it has succeeded."""
    ended: set[str] = set()
    done: set[tuple[str, int | None]] = set()
    stood = collections.defaultdict(set)
    for event in world.log:
        if isinstance(event, events.FallbackUsed):
            stood[event.stage].add(event.fallback)
        if isinstance(event, events.StageStarted):
            assert (event.stage, event.element) not in done
            for dep in world.plan.depends[world.plan.ids[event.stage]]:
                name = world.plan.stages[dep].id
                assert name in ended
                assert stood[name] <= ended
        if isinstance(event, events.StageSucceeded):
            assert (event.stage, event.element) not in done
            done.add((event.stage, event.element))
        over = isinstance(event, events.StageSucceeded | events.StageFailed | events.StageSkipped)
        if over and event.element is None:
            ended.add(event.stage)


def check_attempts(world: theatre.Theatre) -> None:
    tried = collections.Counter()
    for event in world.log:
        if isinstance(event, events.StageRetrying) and event.problem.code != "preempted":
            tried[event.stage, event.element] += 1
    for (stage, _), count in tried.items():
        assert count < world.plan.stages[world.plan.ids[stage]].retry.max_attempts


def check_receipt(world: theatre.Theatre) -> None:
    """Whatever was at work when the cancellation was asked for is in the receipt."""
    at_work: set[tuple[str, int | None, int]] = set()
    asked = False
    for event in world.log:
        place = (getattr(event, "stage", ""), getattr(event, "element", None))
        attempt = getattr(event, "attempt", 0)
        if isinstance(event, events.StageStarted) and event.elements is None:
            assert not asked
            at_work.add((*place, attempt))
        elif not asked and isinstance(
            event,
            events.StageSucceeded
            | events.StageFailed
            | events.StageRetrying
            | events.StageCancelled,
        ):
            at_work.discard((*place, attempt))
        if isinstance(event, events.RunRecovered) and not asked:
            at_work.clear()
        if isinstance(event, events.CancelRequested):
            asked = True
        if isinstance(event, events.RunCancelled):
            proofs = {(s.stage, s.element, s.attempt) for s in event.stopped}
            assert at_work <= proofs


def remembered(world: machine.Machine) -> list:
    """List everything that the fold keeps of stages and elements, queues left out."""
    run = world.state
    found = [view.status(run), run.open, run.epoch, run.params, run.stopped]
    for stage in run.stages:
        found.append((stage.waiting_on, stage.generation, stage.approved, stage.stood_in))
        found += [
            (u.state, u.attempt, u.failures, u.preempted, u.memory, u.outputs)
            for u in [stage, *(stage.units or ())]
        ]
    found += [sorted((u.stage, u.element or -1) for u in q) for q in (run.running, run.retrying)]
    return found


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    pipelines_(), st.sampled_from([None, 1, 2]), st.sampled_from([None, 9.0]), st.data()
)
def test_every_run_ends_once_whatever_happens_to_it(stages, parallel, deadline, data):
    options = pipelines.Options(max_parallel=parallel, deadline_s=deadline)
    play = Play(stages, options, data)
    play.note(play.world.take())
    for _ in range(data.draw(st.integers(0, 25))):
        if play.world.machine.state.over:
            break
        if not play.world.machine.held:
            play.answer()
            continue
        play.fault()
        again = machine.Machine.from_events(play.world.plan, play.world.log)
        assert remembered(again) == remembered(play.world.machine)
        if parallel:
            assert len(play.world.live) <= parallel
    play.finish()
    world = play.world
    assert [type(e) for e in world.log if isinstance(e, TERMINAL)] == [type(world.log[-1])]
    assert play.ended == 1
    assert not world.live
    assert all(s.state in transitions.ENDED for s in view.status(world.machine.state).stages)
    check_order(world)
    check_attempts(world)
    check_receipt(world)
    for stimulus in play.sent:
        if not isinstance(stimulus, stimuli.CancelAsked):
            assert world.send(stimulus) == []
    resume(play)


def resume(play: Play) -> None:
    """Resume what did not succeed; it ends again, and finished stages are not run again."""
    world = play.world
    if world.run == "succeeded":
        return
    before = {s.id: s for s in view.status(world.machine.state).stages}
    world.timers.clear()
    world.now += theatre.dt.timedelta(seconds=1)
    try:
        world.send(stimuli.ResumeAsked("me"))
    except errors.Refused:  # cancelled when its last work was about to end well
        stood = {e.stage for e in world.log if isinstance(e, events.FallbackUsed)}
        assert all(s.state in ("succeeded", "skipped") or s.id in stood for s in before.values())
        return
    again = set(world.log[-1].again)
    assert not any(before[name].state == "succeeded" for name in again)
    mark = len(world.log)
    world.take()
    play.finish()
    started = {e.stage for e in world.log[mark:] if isinstance(e, events.StageStarted)}
    assert started <= again
    check = machine.Machine.from_events(world.plan, world.log)
    assert remembered(check) == remembered(world.machine)
    attempts = collections.Counter(
        (e.stage, e.element, e.attempt) for e in world.log if isinstance(e, events.StageStarted)
    )
    assert max(attempts.values()) == 1


@hypothesis.given(st.integers(1, 30), st.floats(1, 1e300), st.floats(0, 1e300))
def test_a_backoff_is_the_same_whenever_it_is_asked_for_and_never_overflows(n, factor, most):
    from agent.run import retry, times

    policy = pipelines.Retry(factor=factor, max_backoff_s=most)
    key = effects.WorkKey("r", "s", None, n)
    assert retry.wait(policy, key, n) == retry.wait(policy, key, n)
    assert times.after(theatre.START, retry.wait(policy, key, n)) >= theatre.START


def steps(count: int) -> float:
    stages = [pipelines.Stage("s0", "make")]
    stages += [
        pipelines.Stage(f"s{i}", "work", inputs={"table": f"s{i - 1}"}) for i in range(1, count)
    ]
    world = theatre.Theatre(*stages)
    world.take()
    while world.live:
        world.ok(next(iter(world.live)).stage)
    assert world.run == "succeeded"
    return world.machine.state.steps / count


def test_the_cost_of_a_stage_does_not_grow_with_their_number():
    assert steps(2_000) <= steps(200) * 1.05


def test_events_survive_the_wire():
    world = theatre.Theatre(pipelines.Stage("a", "make"))
    world.take()
    world.ok("a", m=1.0)
    data = msgspec.json.encode(world.log)
    assert msgspec.json.decode(data, type=list[events.AnyEvent]) == world.log
