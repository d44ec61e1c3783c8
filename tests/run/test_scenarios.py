from __future__ import annotations

import pathlib
import runpy

import msgspec
import pytest

from agent.run import effects, errors, evolve, machine, stimuli
from protocol import events, pipelines
from tests.run import theatre

S = pipelines.Stage
GIB = 1 << 30


def chain(**fields) -> theatre.Theatre:
    return theatre.Theatre(S("a", "make", **fields), S("b", "work", inputs={"table": "a"}))


def fan(min_success: float = 1.0, limit: int | None = None, **fields) -> list[S]:
    each = pipelines.ForEach("l", "x", min_success, limit)
    return [
        S("l", "list"),
        S("f", "make", for_each=each, **fields),
        S("j", "join", inputs={"tables": "f"}),
    ]


def test_a_chain_runs_in_order_and_ends_once():
    world = chain()
    assert world.take() == ["run.started", "stage.started a#1", "> Launch a#1"]
    assert world.ok("a") == ["stage.succeeded a#1", "stage.started b#1", "> Launch b#1"]
    assert world.launched[-1].work.inputs == {"table": theatre.ref("table")}
    assert world.ok("b") == ["stage.succeeded b#1", "run.succeeded", "> End succeeded"]


def test_a_lost_agent_s_work_is_started_again_under_the_next_attempt_without_counting():
    world = chain(retry=pipelines.Retry(max_attempts=1))
    world.take()
    for attempt in range(2, 6):
        found = world.crash()
        assert found == ["run.recovered", f"stage.started a#{attempt}", f"> Launch a#{attempt}"]
    assert len({launch.work.idempotency_key for launch in world.launched}) == 1
    assert world.ok("a")[0] == "stage.succeeded a#5"


def test_a_finished_run_that_is_taken_again_is_only_ended():
    world = theatre.Theatre(S("a", "make"))
    world.take()
    world.ok("a")
    assert world.crash() == ["> End succeeded"]


def test_late_and_repeated_reports_change_nothing():
    world = chain()
    world.take()
    key = world.key("a")
    world.crash()
    assert world.send(stimuli.WorkSucceeded(key)) == []
    assert world.send(stimuli.WorkStopped(key, "asked")) == []
    assert world.send(stimuli.TimerFired("timeout/a//1")) == []
    assert world.send(stimuli.TimerFired("what/ever")) == []


def test_a_stage_with_effects_waits_for_its_commit():
    world = theatre.Theatre(S("a", "make"), S("s", "ship", inputs={"table": "a"}))
    world.take()
    world.ok("a")
    assert [launch.after_commit for launch in world.launched] == [False, True]


def test_a_transient_failure_is_tried_again_up_to_the_limit():
    world = chain(retry=pipelines.Retry(max_attempts=2, jitter=0))
    world.take()
    assert world.fail("a", "transient") == ["stage.retrying a#1", "> SetTimer retry/a//1"]
    assert world.tick() == ["stage.started a#2", "> Launch a#2"]
    assert world.now == theatre.START + theatre.dt.timedelta(seconds=1)
    found = world.fail("a", "transient")
    assert found[:3] == ["stage.failed a#2", "stage.cancelled b", "run.failed"]
    assert found[-1] == "> End failed"


@pytest.mark.parametrize("code", ["data_fault", "code_fault", "not_allowed", "denied"])
def test_faults_that_stay_are_never_tried_again_unless_named(code):
    world = chain()
    world.take()
    assert world.fail("a", code, retryable=True)[0] == "stage.failed a#1"
    named = chain(retry=pipelines.Retry(codes={code: 2}))
    named.take()
    assert named.fail("a", code)[0] == "stage.retrying a#1"


def test_another_code_is_tried_again_only_where_the_failure_says_so():
    world = chain()
    world.take()
    assert world.fail("a", "not_found")[0] == "stage.failed a#1"
    other = chain()
    other.take()
    assert other.fail("a", "not_found", retryable=True)[0] == "stage.retrying a#1"


def test_preemptions_do_not_count_but_end_after_ten():
    world = chain(retry=pipelines.Retry(max_attempts=1))
    world.take()
    for _ in range(10):
        assert world.fail("a", "preempted")[0].startswith("stage.retrying")
        world.tick()
    assert world.fail("a", "preempted")[0] == "stage.failed a#11"


def test_out_of_memory_doubles_the_memory_up_to_the_maximum():
    limits = pipelines.Resources(memory_bytes=GIB, max_memory_bytes=3 * GIB)
    world = chain(resources=limits, retry=pipelines.Retry(max_attempts=9))
    world.take()
    for _ in range(2):
        world.fail("a", "out_of_memory")
        world.tick()
    asked = [launch.work.resources.memory_bytes for launch in world.launched]
    assert asked == [GIB, 2 * GIB, 3 * GIB]
    assert world.fail("a", "out_of_memory")[0] == "stage.failed a#3"


def test_a_timeout_asks_then_forces_and_waits_for_the_stop_before_trying_again():
    world = chain(timeout_s=5)
    world.take()
    assert world.tick() == ["> Stop a#1", "> SetTimer force/a//1"]
    assert world.tick() == ["> Kill a#1"]
    found = world.halt("a", "forced")
    assert found[0] == "stage.retrying a#1"
    assert world.log[-1].problem.code == "timeout"
    assert world.tick()[0] == "stage.started a#2"


def test_a_deadline_stops_everything_and_fails_the_run():
    world = theatre.Theatre(
        S("a", "make"),
        S("b", "work", inputs={"table": "a"}),
        S("c", "make"),
        options=pipelines.Options(deadline_s=10),
    )
    world.take()
    world.ok("a")
    assert world.tick() == ["> Stop c#1", "> Stop b#1", "> SetTimer deadline-force"]
    world.halt("b")
    found = world.halt("c", "forced")
    assert found[:2] == ["stage.cancelled c#1", "run.failed"]
    assert world.log[-1].problem.code == "deadline_exceeded"


def test_after_a_failure_nothing_new_starts_but_running_stages_are_kept():
    world = theatre.Theatre(S("a", "make"), S("c", "make"), S("d", "work", inputs={"table": "c"}))
    world.take()
    assert world.fail("a") == ["stage.failed a#1"]
    found = world.ok("c")
    assert found[:3] == ["stage.succeeded c#1", "stage.cancelled d", "run.failed"]
    assert world.log[-1].problem.code == "code_fault"


def test_a_skippable_failure_skips_what_needs_it_and_the_run_succeeds():
    world = theatre.Theatre(
        S("a", "make", on_failure="skip"),
        S("b", "work", inputs={"table": "a"}),
        S("c", "work", inputs={"table": "b"}),
        S("o", "maybe", inputs={"table": "a"}),
    )
    world.take()
    found = world.fail("a")
    assert found[:4] == [
        "stage.failed a#1",
        "stage.skipped b",
        "stage.skipped c",
        "stage.started o#1",
    ]
    assert "'a', which failed" in world.stage("b").reason
    assert world.launched[-1].work.inputs == {}
    assert world.ok("o")[1] == "run.succeeded"


def test_a_fallback_stands_in_for_the_stage_that_failed():
    world = theatre.Theatre(
        S("a", "make", on_failure=pipelines.Fallback("g")),
        S("b", "work", inputs={"table": "a"}),
        S("g", "make"),
    )
    assert world.take()[1:] == ["stage.started a#1", "> Launch a#1"]
    found = world.fail("a")
    assert found[:3] == ["stage.failed a#1", "stage.fallback_used a", "stage.started g#1"]
    assert world.ok("g")[1] == "stage.started b#1"
    assert world.launched[-1].work.inputs == {"table": theatre.ref("table")}
    assert world.ok("b")[1] == "run.succeeded"


def test_a_fallback_that_is_not_needed_is_skipped_with_its_reason():
    world = theatre.Theatre(S("a", "make", on_failure=pipelines.Fallback("g")), S("g", "make"))
    world.take()
    assert world.ok("a")[:3] == ["stage.succeeded a#1", "stage.skipped g", "run.succeeded"]
    assert world.stage("g").reason == "not needed as a fallback for 'a'"


def test_conditions_name_the_metric_the_value_and_the_comparison():
    condition = pipelines.Condition("a.f1", ">=", 0.5)
    for metrics, reason in [
        ({"f1": 0.25}, "a.f1 is 0.25, not >= 0.5"),
        ({}, "the metric a.f1 of its condition is missing"),
    ]:
        world = theatre.Theatre(S("a", "make"), S("b", "make", when=[condition]))
        world.take()
        assert world.ok("a", **metrics)[1:3] == ["stage.skipped b", "run.succeeded"]
        assert world.stage("b").reason == reason
    world = theatre.Theatre(S("a", "make"), S("b", "make", when=condition))
    world.take()
    assert world.ok("a", f1=0.5)[1] == "stage.started b#1"


def test_a_fan_runs_once_per_element_and_collects_in_order():
    world = theatre.Theatre(*fan())
    world.take()
    assert world.ok("l")[1:5] == [
        "stage.started f#1",
        "stage.started f[0]#1",
        "stage.started f[1]#1",
        "stage.started f[2]#1",
    ]
    assert world.launched[-1].work.item == effects.Item(theatre.ref("list", 3), 2)
    for element, score in [(2, 3.0), (0, 1.0)]:
        world.ok("f", element, m=score)
    assert world.ok("f", 1, m=2.0)[1:3] == ["stage.succeeded f#1", "stage.started j#1"]
    assert world.stage("f").metrics == {"m": 2.0}
    assert len(world.launched[-1].work.inputs["tables"]) == 3


def test_a_quorum_quarantines_what_failed_and_a_backfill_runs_only_that():
    world = theatre.Theatre(*fan(0.6))
    world.take()
    world.ok("l")
    world.fail("f", element=1)
    world.ok("f", 0)
    found = world.ok("f", 2)
    assert found[1] == "stage.succeeded f#1"
    assert [q.element for q in world.stage("f").quarantined] == [1]
    world.ok("j")
    world.send(stimuli.ResumeAsked("me", backfill=True))
    assert world.log[-1].again == ["f", "j"]
    assert world.take()[:3] == ["run.recovered", "stage.started f#2", "stage.started f[1]#2"]
    assert world.ok("f", 1)[1:3] == ["stage.succeeded f#2", "stage.started j#2"]
    assert len(world.launched[-1].work.inputs["tables"]) == 3


def test_a_fan_fails_as_soon_as_its_quorum_is_out_of_reach():
    world = theatre.Theatre(*fan(0.9))
    world.take()
    world.ok("l")
    assert world.fail("f", element=0) == ["stage.failed f[0]#1", "stage.failed f#1"]
    world.ok("f", 1)
    assert "run.failed" in world.ok("f", 2)


def test_elements_that_a_failed_fan_has_not_started_keep_nobody_waiting():
    list_, fanned, _ = fan(on_failure="skip")
    gate = S("g", "make", approval=pipelines.Approval())
    options = pipelines.Options(max_parallel=1)
    world = theatre.Theatre(list_, fanned, gate, options=options)
    world.take()
    world.ok("l")
    found = world.fail("f", element=0)
    assert found[-1] == "> Park"
    again = machine.Machine.from_events(world.plan, world.log)
    assert again.state.parked


def test_fans_keep_to_their_limits():
    world = theatre.Theatre(*fan(limit=2), max_fan_out=3)
    world.take()
    world.ok("l")
    assert len(world.live) == 2
    assert world.ok("f", 0)[1] == "stage.started f[2]#1"
    small = theatre.Theatre(*fan(), max_fan_out=2)
    small.take()
    small.ok("l")
    assert small.stage("f").problem.code == "fan_out_too_large"
    empty = theatre.Theatre(*fan(), rows=0)
    empty.take()
    assert empty.ok("l")[1:3] == ["stage.started f#1", "stage.succeeded f#1"]
    assert empty.launched[-1].work.inputs == {"tables": []}


def test_a_gate_parks_the_run_until_it_is_answered_and_taken():
    world = chain(approval=pipelines.Approval("sure?"))
    assert world.take() == ["run.started", "stage.approval_requested a", "> Park"]
    assert world.run == "waiting"
    assert world.send(stimuli.Answered("a", approved=True, by="me")) == ["stage.approved a"]
    assert world.send(stimuli.Answered("a", approved=True, by="me")) == []
    assert world.take()[1:] == ["stage.started a#1", "> Launch a#1"]


def test_a_denied_gate_and_one_that_expires_fail_the_stage():
    world = chain(approval=pipelines.Approval())
    world.take()
    world.send(stimuli.Answered("a", approved=False, by="me"))
    assert world.take()[1] == "stage.failed a"
    assert world.stage("a").problem.code == "denied"
    late = theatre.Theatre(S("a", "make", approval=pipelines.Approval(timeout_s=5)), S("b", "make"))
    late.take()
    assert late.tick()[:2] == ["stage.denied a", "stage.failed a"]


def test_a_cancellation_asks_then_forces_and_ends_with_a_receipt():
    world = theatre.Theatre(S("a", "make"), S("b", "make"), S("c", "work", inputs={"table": "a"}))
    world.take()
    found = world.send(stimuli.CancelAsked("me", grace_s=2))
    assert found == ["run.cancel_requested", "> Stop a#1", "> Stop b#1", "> SetTimer cancel"]
    assert world.ok("a") == ["stage.succeeded a#1"]
    assert world.tick() == ["> Kill b#1"]
    found = world.halt("b", "forced")
    assert found[:3] == ["stage.cancelled b#1", "stage.cancelled c", "run.cancelled"]
    proofs = [(s.stage, s.how, s.where) for s in world.log[-1].stopped]
    assert proofs == [("a", "finished", ""), ("b", "forced", "w1")]
    with pytest.raises(errors.Refused) as caught:
        world.send(stimuli.CancelAsked("me"))
    assert caught.value.problem.code == "conflict"


@pytest.mark.parametrize("asked", [S("a", "train"), S("a", "make", placement="swarm")])
def test_a_cancellation_survives_the_loss_of_its_agent(asked):
    world = theatre.Theatre(asked)
    world.take()
    world.send(stimuli.CancelAsked("me"))
    assert world.crash() == [
        "run.recovered",
        "stage.cancelled a#1",
        "run.cancelled",
        "> Recall a#1",
        "> ClearTimer cancel",
        "> End cancelled",
    ]
    assert world.log[-1].stopped[0].where == "lost with its agent"


def test_a_second_cancellation_hastens_the_first():
    world = chain()
    world.take()
    world.send(stimuli.CancelAsked("me", grace_s=60))
    assert world.send(stimuli.CancelAsked("me", grace_s=0)) == ["> Kill a#1"]


def test_a_parked_or_queued_run_is_cancelled_at_once():
    world = chain()
    assert "run.cancelled" in world.send(stimuli.CancelAsked("me"))
    gated = chain(approval=pipelines.Approval())
    gated.take()
    assert "run.cancelled" in gated.send(stimuli.CancelAsked("me"))


def test_a_resume_with_new_parameters_runs_that_stage_and_what_follows_anew():
    world = theatre.Theatre(
        S("a", "make", params={"x": 1, "y": 2}),
        S("b", "work", inputs={"table": "a"}),
        S("c", "make"),
    )
    world.take()
    world.ok("a")
    world.ok("c")
    world.fail("b")
    with pytest.raises(errors.Refused):
        world.send(stimuli.ResumeAsked("me", from_stage="gone"))
    world.send(stimuli.ResumeAsked("me", params={"a": {"x": 9}}))
    assert world.log[-1].again == ["a", "b"]
    assert world.take()[:2] == ["run.recovered", "stage.started a#2"]
    assert world.launched[-1].work.params == {"x": 9, "y": 2}
    keys = [x.work.idempotency_key for x in world.launched if x.work.key.stage == "a"]
    assert len(set(keys)) == 2
    world.ok("a")
    assert world.ok("b")[1] == "run.succeeded"


def test_a_resume_from_a_stage_asks_for_it_afresh():
    world = chain()
    world.take()
    world.ok("a")
    world.fail("b")
    world.send(stimuli.ResumeAsked("me", from_stage="a"))
    world.take()
    assert world.launched[-1].work.cache == "refresh"
    with pytest.raises(errors.Refused):
        world.send(stimuli.ResumeAsked("me"))


def test_launches_follow_the_longest_path_then_the_order_of_the_pipeline():
    world = theatre.Theatre(
        S("x", "make"),
        S("y", "make"),
        S("z", "work", inputs={"table": "y"}),
        options=pipelines.Options(max_parallel=1),
    )
    world.take()
    assert [key.stage for key in world.live] == ["y"]
    world.ok("y")
    assert [key.stage for key in world.live] == ["x"]


def test_an_event_without_an_arrow_is_refused_with_the_story():
    world = chain()
    world.take()
    with pytest.raises(errors.IllegalTransition) as caught:
        evolve.evolve(world.machine.state, events.StageSkipped(at=world.now, stage="a", reason=""))
    assert (caught.value.stage, caught.value.state) == ("a", "running")
    assert caught.value.story == ("RunStarted run", "StageStarted a")


def test_what_another_agent_appended_is_absorbed_and_acted_upon():
    world = theatre.Theatre(S("a", "make", approval=pipelines.Approval()), S("b", "make"))
    world.take()
    other = machine.Machine.from_events(world.plan, world.log)
    answer = stimuli.Answered("a", approved=True, by="me")
    appended, wanted = other.handle(answer, world.now, "other")
    assert wanted == []
    happened, wanted = world.machine.absorb(appended, world.now, "other")
    assert [theatre.line(x) for x in [*happened, *wanted]] == ["stage.started a#1", "> Launch a#1"]


def test_facts_that_a_stage_tells_are_journaled_and_malformed_ones_are_warned_of():
    world = chain()
    world.take()
    key = world.key("a")
    details = {"model": "m", "version": "1"}
    assert world.send(stimuli.WorkNoted(key, "registered", details)) == ["stage.registered a"]
    assert world.send(stimuli.WorkNoted(key, "registered", {"model": 1})) == ["> Warn"]
    assert world.send(stimuli.WorkNoted(key, "rumour", {})) == ["> Warn"]


def test_the_drawn_diagram_is_current():
    root = pathlib.Path(__file__).parents[2]
    drawn = runpy.run_path(str(root / "scripts" / "draw_states.py"))["render"]()
    assert (root / "docs" / "run-core.md").read_text(encoding="utf-8") == drawn


def test_wide_fans_and_long_chains_go_through():
    wide = theatre.Theatre(*fan(), rows=10_000)
    wide.take()
    wide.ok("l")
    for key in list(wide.live):
        del wide.live[key]
        wide.send(stimuli.WorkSucceeded(key, {"table": theatre.ref("table")}))
    assert len(wide.launched[-1].work.inputs["tables"]) == 10_000
    closed = next(e for e in wide.log if getattr(e, "outputs", None) == {} and e.stage == "f")
    assert len(msgspec.json.encode(closed)) < 1000


def test_a_wide_fan_starts_as_much_as_there_is_room_for_and_holds_up_no_other_stage():
    world = theatre.Theatre(
        S("l", "list"),
        S("f", "make", for_each=pipelines.ForEach(items="l")),
        S("m", "make", needs=["l"]),
        rows=10,
    )
    world.machine.window = 3
    world.take()
    world.ok("l")
    started = [(key.stage, key.element) for key in world.live]
    assert started == [("m", None), ("f", 0), ("f", 1)]
    world.ok("f", 0)
    world.ok("m")
    assert [key.element for key in world.live] == [1, 2, 3]
