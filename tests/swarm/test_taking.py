"""What is assigned is done by one agent that can and has room, and is answered exactly once."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import nats.errors
import pytest

from agent.artifacts import store
from protocol import artifacts as refs
from protocol import codec, events, pipelines, swarm
from stages import values
from tests.protocol import samples
from tests.swarm import helpers
from tests.swarm.helpers import assignment, half, put, report

LARGE = "x" * 1100
"""Stored, and not carried in its reference."""
SUM = "sample.add"


@pytest.fixture
async def taker(nc, names, artifacts):
    async with half(nc, names, artifacts) as one:
        yield one


def work(trace, **params):
    return assignment(params={"trace": str(trace), **params})


@pytest.mark.usefixtures("taker")
async def test_it_is_done_with_what_it_names_and_reported(nc, names, artifacts):
    one = artifacts.put(values.Metrics({"sum": 2.0}))
    asked = assignment(SUM, params={"number": 3}, inputs={"numbers": [one]}, attempt=4, epoch=7)
    await put(nc, names, asked)
    told = await report(nc, names, asked.assignment_id)
    assert (told.state, told.metrics, told.agent) == ("succeeded", {"sum": 5.0}, "taker")
    assert (told.attempt, told.epoch) == (4, 7)
    assert artifacts.get(told.outputs["metrics"]).values == {"sum": 5.0}
    assert told.usage is not None
    assert told.code_version
    await helpers.wait_empty(nc, names)


async def test_it_is_answered_once_however_often_it_is_put(nc, names, artifacts, trace):
    asked = work(trace, seconds=0.3)
    async with half(nc, names, artifacts, "one"), half(nc, names, artifacts, "two"):
        for _ in range(3):
            await put(nc, names, asked)
        await report(nc, names, asked.assignment_id)
        for _ in range(3):
            await put(nc, names, asked)
        await helpers.wait_empty(nc, names)
    assert await helpers.kept_reports(nc, names) == 1


@pytest.mark.usefixtures("taker")
async def test_what_is_held_already_does_not_run_again_beside_itself(nc, names, trace):
    asked = work(trace, seconds=0.5)
    for _ in range(3):
        await put(nc, names, asked)
    await helpers.wait_empty(nc, names)
    assert len([one for one in helpers.lines(trace) if "began" in one]) == 1


async def test_a_repetition_is_not_even_queued(nc, names):
    asked = assignment("sample.noop")
    first = await put(nc, names, asked, once=True)
    again = await put(nc, names, asked, once=True)
    assert (again.duplicate, again.seq) == (True, first.seq)
    assert await helpers.queued(nc, names) == 1


async def test_what_the_broker_passes_over_is_done_as_well(nc, names, artifacts):
    async with half(nc, names, artifacts, "before"):  # it makes the consumer
        await put(nc, names, assignment("sample.noop", name="first"))
        await report(nc, names, "first")
    passed = await put(nc, names, assignment("sample.noop", name="passed-over"))
    consumer = f"{names.work_stream}.{names.work_consumer('sample.noop')}"
    place = msgspec.json.encode({"seq": passed.seq + 1})
    told = await nc.request(f"$JS.API.CONSUMER.RESET.{consumer}", place)
    assert b'"error"' not in told.data
    async with half(nc, names, artifacts, "after"):
        assert (await report(nc, names, "passed-over")).state == "succeeded"
    assert await helpers.kept_reports(nc, names) == 2


async def test_what_has_a_report_is_not_done(nc, names, artifacts, trace):
    asked = work(trace)
    other = swarm.StageReport(asked.assignment_id, "another", "succeeded")
    await nc.jetstream().publish(names.report(asked.assignment_id), codec.encode(other))
    await put(nc, names, asked)
    async with half(nc, names, artifacts):
        await helpers.wait_empty(nc, names)
    assert not trace.exists()
    assert (await report(nc, names, asked.assignment_id)).agent == "another"


@pytest.mark.usefixtures("taker")
async def test_a_failure_is_reported_with_its_problem(nc, names):
    asked = assignment("sample.fail", params={"how": "data"})
    await put(nc, names, asked)
    told = await report(nc, names, asked.assignment_id)
    assert told.state == "failed"
    assert (told.problem.code, told.problem.hint) == ("data_fault", "choose another")


@pytest.mark.usefixtures("taker")
async def test_wrong_parameters_are_named_by_path(nc, names):
    asked = assignment(SUM, params={"nubmer": 1})
    await put(nc, names, asked)
    told = await report(nc, names, asked.assignment_id)
    assert (told.problem.code, told.problem.path) == ("unknown_field", "$.with.nubmer")


async def dead(nc, names):
    async with asyncio.timeout(helpers.WAIT_S):
        while True:
            try:
                return await nc.jetstream().get_last_msg(names.deadletter_stream, names.deadletter)
            except nats.errors.Error:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"{", "invalid_json", "$"),
        (b"\xff", "invalid_json", "$"),
        (b'{"use": "sample.noop"}', "invalid_field", "$.assignment_id"),
        (b'{"assignment_id": "a.>", "use": "sample.noop"}', "invalid_field", "$.assignment_id"),
    ],
)
@pytest.mark.usefixtures("taker")
async def test_a_message_that_is_no_assignment_becomes_a_dead_letter(nc, names, body, code, path):
    await put(nc, names, body, subject=names.work("sample.noop"))
    kept = await dead(nc, names)
    assert kept.data == body
    assert (kept.headers["Dead-Code"], kept.headers["Dead-Path"]) == (code, path)
    await helpers.wait_empty(nc, names)
    good = assignment("sample.noop")
    await put(nc, names, good)
    assert (await report(nc, names, good.assignment_id)).state == "succeeded"


@pytest.mark.usefixtures("taker")
async def test_who_waits_for_a_dead_letter_is_answered(nc, names):
    body = b'{"assignment_id": "newer", "use": "sample.noop", "colour": 1}'
    await put(nc, names, body, subject=names.work("sample.noop"))
    told = await report(nc, names, "newer")
    assert (told.problem.code, told.problem.path) == ("unknown_field", "$.colour")
    assert (await dead(nc, names)).data == body


async def test_what_was_taken_very_often_and_never_answered_is_put_aside(
    nc, names, artifacts, trace
):
    asked = work(trace)
    await put(nc, names, asked)
    async with half(nc, names, artifacts, start=False) as one:
        await one.member._queue._consume(asked.use, names.work_consumer(asked.use))
        pull = await nc.jetstream().pull_subscribe_bind(
            names.work_consumer(asked.use), names.work_stream
        )
        for _ in range(10):
            (message,) = await pull.fetch(1, timeout=5)
            await message.nak()
        await pull.unsubscribe()
        await one.start()
        told = await report(nc, names, asked.assignment_id)
    assert told.problem.code == "worker_lost"
    assert (await dead(nc, names)).headers["Dead-Code"] == "worker_lost"
    assert not trace.exists()


@pytest.mark.usefixtures("taker")
async def test_an_input_of_a_store_that_is_not_shared_is_told_before_anything_runs(
    nc, names, tmp_path
):
    elsewhere = store.Store((tmp_path / "elsewhere").as_uri(), tmp_path / "other").make()
    ref = elsewhere.put(values.Report({"text": LARGE}))
    asked = assignment("sample.pass", inputs={"report": ref})
    await put(nc, names, asked)
    problem = (await report(nc, names, asked.assignment_id)).problem
    assert (problem.code, problem.path) == ("not_allowed", "$.inputs.report")
    assert "artifacts.uri" in problem.hint


@pytest.mark.usefixtures("taker")
async def test_an_input_that_is_gone_is_told_before_anything_runs(nc, names, artifacts):
    ref = artifacts.put(values.Metrics({"sum": 1.0, LARGE: 1.0}))
    artifacts.delete(ref.digest)
    asked = assignment(SUM, inputs={"numbers": [ref]})
    await put(nc, names, asked)
    problem = (await report(nc, names, asked.assignment_id)).problem
    assert (problem.code, problem.path) == ("transient", "$.inputs.numbers[0]")
    assert problem.retryable


@pytest.mark.usefixtures("taker")
async def test_what_is_put_among_others_is_refused(nc, names):
    asked = assignment("sample.noop")
    await put(nc, names, asked, subject=names.work("sample.add"))
    problem = (await report(nc, names, asked.assignment_id)).problem
    assert (problem.code, problem.path) == ("invalid_field", "$.use")


@pytest.mark.usefixtures("taker")
async def test_nothing_is_begun_after_its_deadline(nc, names, trace):
    past = helpers.now() - dt.timedelta(seconds=1)
    asked = msgspec.structs.replace(work(trace), deadline=past)
    await put(nc, names, asked)
    assert (await report(nc, names, asked.assignment_id)).problem.code == "deadline_exceeded"
    assert not trace.exists()


@pytest.mark.usefixtures("taker")
async def test_what_runs_at_its_deadline_is_stopped(nc, names, trace):
    soon = helpers.now() + dt.timedelta(seconds=0.4)
    asked = msgspec.structs.replace(work(trace, seconds=60), deadline=soon)
    await put(nc, names, asked)
    assert (await report(nc, names, asked.assignment_id)).problem.code == "deadline_exceeded"
    assert "stopped" in helpers.lines(trace)[-1]


async def in_epoch(nc, names, run_id, epoch):
    """Let a run's journal say that its owner is in an epoch."""
    commit = msgspec.structs.replace(
        samples.minimal(events.Commit), run_id=run_id, number=1, epoch=epoch
    )
    await nc.jetstream().publish(names.run_journal(run_id), codec.encode(commit))


@pytest.mark.parametrize(("epoch", "state"), [(1, "failed"), (2, "succeeded"), (3, "succeeded")])
@pytest.mark.usefixtures("taker")
async def test_an_owner_that_has_lost_its_run_is_fenced_off(nc, names, trace, epoch, state):
    await in_epoch(nc, names, "run-1", 2)
    asked = msgspec.structs.replace(work(trace), run_id="run-1", epoch=epoch)
    await put(nc, names, asked)
    told = await report(nc, names, asked.assignment_id)
    assert told.state == state
    assert trace.exists() == (state == "succeeded")
    if told.problem is not None:
        assert (told.problem.code, told.problem.path) == ("conflict", "$.epoch")


async def test_no_more_is_taken_than_there_is_room_for(nc, names, artifacts, trace, tmp_path):
    go = tmp_path / "go"
    for number in range(3):
        await put(nc, names, work(trace, name=f"w{number}", until=str(go)))
    async with half(nc, names, artifacts, "one", capacity=1):
        await helpers.wait_lines(trace, "began")
        async with half(nc, names, artifacts, "two", capacity=1):
            await helpers.wait_lines(trace, "began", 2)
            info = await nc.jetstream().consumer_info(
                names.work_stream, names.work_consumer("service.work")
            )
            assert (info.num_ack_pending, info.num_pending) == (2, 1)
            go.touch()
            await helpers.wait_lines(trace, "ended", 3)
            await helpers.wait_empty(nc, names)


async def test_only_what_the_configuration_names_is_taken(nc, names, artifacts, trace):
    refused, taken = work(trace), assignment("sample.noop")
    async with half(nc, names, artifacts, capabilities=("sample.*",)) as one:
        assert "service.work" not in one.member.card().capabilities
        await put(nc, names, refused)
        await put(nc, names, taken)
        await report(nc, names, taken.assignment_id)
    assert await helpers.queued(nc, names) == 1
    assert not trace.exists()


async def test_an_agent_that_drains_takes_nothing_until_it_is_let(nc, names, artifacts, taker):
    taker.member.stance.become("draining")
    asked = assignment("sample.noop")
    await put(nc, names, asked)
    async with half(nc, names, artifacts, "another"):
        assert (await report(nc, names, asked.assignment_id)).agent == "another"
    later = assignment("sample.noop")
    await put(nc, names, later)
    taker.member.stance.become("ready")
    assert (await report(nc, names, later.assignment_id)).agent == "taker"


async def test_what_an_agent_holds_when_it_stops_goes_to_another(
    nc, names, artifacts, trace, tmp_path
):
    go = tmp_path / "go"
    asked = work(trace, until=str(go))
    async with half(nc, names, artifacts, "one", lease_s=60) as one:
        await put(nc, names, asked)
        await helpers.wait_lines(trace, "began")
        await one.stop()
    assert "stopped" in helpers.lines(trace)[-1]
    assert await helpers.kept_reports(nc, names) == 0
    go.touch()
    async with half(nc, names, artifacts, "two", lease_s=60):
        assert (await report(nc, names, asked.assignment_id)).agent == "two"


@pytest.mark.usefixtures("taker")
async def test_a_cancellation_reaches_who_has_it_and_is_proved(nc, names, trace):
    asked = work(trace, seconds=60)
    await put(nc, names, asked)
    await helpers.wait_lines(trace, "began")
    status = await helpers.cancel(nc, names, asked.assignment_id)
    assert "stopped" in helpers.lines(trace)[-1]
    assert (status.stopped, status.how, status.agent) == (True, "asked", "taker")
    assert status.where.startswith("pid ")
    told = await report(nc, names, asked.assignment_id)
    assert (told.problem.code, told.how, told.where) == ("cancelled", "asked", status.where)


@pytest.mark.usefixtures("taker")
async def test_nobody_answers_for_what_nobody_has(nc, names):
    with pytest.raises(nats.errors.NoRespondersError):
        await helpers.cancel(nc, names, "nobody-has-it")


@pytest.mark.usefixtures("taker")
async def test_signs_of_life_tell_that_it_was_taken_and_how_far_it_is(nc, names):
    asked = assignment("sample.sleep", params={"seconds": 0.3})
    heard = await nc.subscribe(names.assignment_progress(asked.assignment_id))
    await put(nc, names, asked)
    await report(nc, names, asked.assignment_id)
    told = []
    while heard.pending_msgs:
        message = await heard.next_msg()
        told.append(msgspec.json.decode(message.data, type=swarm.AssignmentProgress))
    assert (told[0].state, told[1].state) == ("taken", "running")
    assert {one.agent for one in told} == {"taker"}
    assert told[-1].fraction > 0.5


@pytest.mark.usefixtures("taker")
async def test_an_element_and_the_notes_of_a_stage_travel(nc, names, artifacts):
    items = artifacts.put(values.Items([{"a": 1}, {"a": 2}]))
    item = swarm.AssignedItem(items, "value", 1)
    asked = assignment("sample.echo", item=item, seed=3, resources=pipelines.Resources(cpu=1))
    await put(nc, names, asked)
    told = await report(nc, names, asked.assignment_id)
    ref = told.outputs["report"]
    assert isinstance(ref, refs.ArtifactRef)
    assert artifacts.get(ref).data["value"] == {"a": 2}
    noisy = assignment("sample.tell", params={"facts": 2})
    await put(nc, names, noisy)
    told = await report(nc, names, noisy.assignment_id)
    assert told.notes == [swarm.Noted("registered", {"number": n}) for n in range(2)]


async def test_notes_that_would_crowd_the_report_out_are_left_out(nc, names, artifacts):
    asked = assignment("swarm.note", params={"size": 10_000})
    await put(nc, names, asked)
    async with half(nc, names, artifacts, room=12_000):
        told = await report(nc, names, asked.assignment_id)
    assert (told.state, told.notes) == ("succeeded", [])


async def test_a_report_that_the_bus_does_not_take_is_given_without_its_notes(nc, names, artifacts):
    asked = assignment("swarm.note", params={"size": nc.max_payload})
    await put(nc, names, asked)
    async with half(nc, names, artifacts, room=8 * nc.max_payload):
        told = await report(nc, names, asked.assignment_id)
        await helpers.wait_empty(nc, names)
    assert (told.state, told.notes) == ("succeeded", [])


async def test_a_report_that_is_still_too_large_says_so(nc, names, artifacts):
    large = swarm.StageReport("large", "taker", "succeeded", metrics={"x" * nc.max_payload: 1.0})
    async with half(nc, names, artifacts, start=False) as one:
        async with asyncio.timeout(helpers.WAIT_S):
            given = await one.taker._given(large)
    told = await report(nc, names, "large")
    assert given == told
    assert (told.state, told.problem.code) == ("failed", "payload_too_large")


async def test_what_is_delivered_very_often_to_who_has_it_goes_on(
    nc, names, artifacts, trace, tmp_path
):
    go = tmp_path / "go"
    asked = work(trace, until=str(go))
    async with half(nc, names, artifacts, lease_s=60) as one:
        await put(nc, names, asked)
        await helpers.wait_lines(trace, "began")
        known = one.taker._held[asked.assignment_id].taken
        async with asyncio.timeout(helpers.WAIT_S):
            for number in range(2, 13):
                await known.message.nak()
                while known.message.metadata.num_delivered < number:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        go.touch()
        told = await report(nc, names, asked.assignment_id)
        await helpers.wait_empty(nc, names)
    assert told.state == "succeeded"
    assert len([one for one in helpers.lines(trace) if "began" in one]) == 1
