"""Owns what every executor has to do, wherever it runs the work."""

from __future__ import annotations

import asyncio

import pytest

from agent.execution import base
from agent.run import effects
from stages import values
from tests.execution import helpers

LARGE = "x" * 1100
"""Stored, and not carried in its reference."""
pytestmark = pytest.mark.ray


@pytest.fixture(params=["on_ray", "on_bus", "in_this_process"])
def executor(request):
    return request.getfixturevalue(request.param)


async def outcome_of(executor, use, **how):
    return await executor.run(helpers.work(use, **how), helpers.Watcher())


async def test_outputs_are_stored_and_their_numbers_given(executor, artifacts):
    outcome = await outcome_of(executor, "sample.add", number=2.5)
    assert isinstance(outcome, base.Succeeded)
    assert outcome.metrics == {"sum": 2.5}
    assert artifacts.get(outcome.outputs["metrics"]).values == {"sum": 2.5}
    assert outcome.code_version
    assert outcome.usage is not None
    assert not outcome.cached


async def test_a_port_for_many_takes_a_list_and_an_optional_one_may_be_absent(executor, artifacts):
    refs = [artifacts.put(values.Metrics({"sum": n})) for n in (1.0, 2.0)]
    outcome = await outcome_of(executor, "sample.add", number=4, inputs={"numbers": refs})
    assert outcome.metrics == {"sum": 7.0}


async def test_an_element_of_a_list_becomes_a_parameter(executor, artifacts):
    items = artifacts.put(values.Items([{"a": 1}, {"a": 2}]))
    outcome = await outcome_of(executor, "sample.echo", item=effects.Item(items, 1), into="value")
    assert artifacts.get(outcome.outputs["report"]).data["value"] == {"a": 2}


async def test_an_artifact_of_a_fan_out_becomes_an_input(executor, artifacts):
    one = artifacts.put(values.Report({"from": "upstream"}))
    outcome = await outcome_of(executor, "sample.pass", item=effects.Item(one, None), into="report")
    assert outcome.outputs["report"].digest == one.digest


async def test_an_element_beyond_the_list_is_a_fault_of_the_work(executor, artifacts):
    items = artifacts.put(values.Items([1]))
    outcome = await outcome_of(executor, "sample.echo", item=effects.Item(items, 5), into="value")
    assert isinstance(outcome, base.Failed)
    assert "element 5 was asked of a list of 1" in outcome.problem.message


async def test_the_context_has_the_seed_and_the_lineage(executor, artifacts):
    outcome = await outcome_of(executor, "sample.echo")
    data = artifacts.get(outcome.outputs["report"]).data
    assert data["seed"] == 7
    assert data["lineage"]["run"] == "run-1"
    assert data["lineage"]["pipeline"] == "sample"
    assert data["lineage"]["code_version"] == outcome.code_version


async def test_metrics_that_are_not_finite_are_left_out(executor):
    outcome = await outcome_of(executor, "sample.numbers")
    assert outcome.metrics == {"good": 0.5}
    assert set(outcome.outputs) == {"metrics", "report"}


async def test_parameters_of_the_wrong_type_are_named_by_path(executor):
    outcome = await outcome_of(executor, "sample.sleep", seconds="x", deaf=3, quick=True)
    assert isinstance(outcome, base.Failed)
    assert outcome.problem.code in {"invalid_field", "unknown_field"}
    paths = {one.path for one in outcome.problem.problems}
    assert paths == {"$.with.seconds", "$.with.deaf", "$.with.quick"}


@pytest.mark.parametrize(
    ("how", "code", "retryable"),
    [
        ("data", "data_fault", False),
        ("transient", "transient", True),
        ("not_allowed", "not_allowed", False),
        ("memory", "out_of_memory", True),
        ("connection", "transient", True),
        ("disk", "transient", True),
        ("import", "code_fault", False),
        ("exit", "code_fault", False),
        ("code", "code_fault", False),
    ],
)
async def test_the_type_of_a_fault_decides_its_code(executor, how, code, retryable):
    outcome = await outcome_of(executor, "sample.fail", how=how)
    assert isinstance(outcome, base.Failed)
    assert (outcome.problem.code, outcome.problem.retryable) == (code, retryable)


async def test_a_stage_says_how_its_fault_is_mended(executor):
    problem = (await outcome_of(executor, "sample.fail", how="data")).problem
    assert (problem.message, problem.hint) == ("no such column", "choose another")
    assert problem.path == "$.with.column"
    assert problem.traceback is None


async def test_a_traceback_begins_with_the_cause_and_has_no_frames_of_ours(executor):
    outcome = await outcome_of(executor, "sample.fail", how="code")
    trace = outcome.problem.traceback
    assert trace.index("KeyError: 'missing'") < trace.index("RuntimeError: broken")
    assert "agent/execution" not in trace
    assert "logged before failing" in outcome.log


async def test_an_artifact_that_is_gone_may_be_back_later(executor, artifacts):
    ref = artifacts.put(values.Report({"gone": LARGE}))
    artifacts.delete(ref.digest)
    outcome = await outcome_of(executor, "sample.pass", inputs={"report": ref})
    assert (outcome.problem.code, outcome.problem.retryable) == ("transient", True)


async def test_a_changed_artifact_is_not_read(executor, artifacts):
    ref = artifacts.put(values.Report({"whole": LARGE}))
    artifacts.path(ref).write_bytes(b'{"whole": 1}')
    outcome = await outcome_of(executor, "sample.pass", inputs={"report": ref})
    assert outcome.problem.code == "artifact_corrupt"


@pytest.mark.parametrize("seconds", [0.0, 0.9])
async def test_every_note_arrives_once_and_in_order(executor, seconds):
    watcher = helpers.Watcher()
    outcome = await executor.run(helpers.work("sample.tell", facts=5, seconds=seconds), watcher)
    assert isinstance(outcome, base.Succeeded)
    assert watcher.notes == [("registered", {"number": n}) for n in range(5)]


async def test_progress_is_heard_while_the_stage_runs(executor):
    task, watcher = await helpers.start(executor, helpers.work("sample.sleep", seconds=1.0))
    assert not task.done()
    assert watcher.told[0][1] == "asleep"
    assert isinstance(await task, base.Succeeded)


async def test_an_asked_stop_ends_a_stage_that_looks(executor):
    piece = helpers.work("sample.sleep", seconds=60)
    task, _ = await helpers.start(executor, piece)
    await executor.stop(piece.key, force=False)
    outcome = await asyncio.wait_for(task, 5)
    assert isinstance(outcome, base.Halted)
    assert outcome.how == "asked"
    assert outcome.where.startswith("pid ")


async def test_what_is_queued_is_stopped_before_it_starts(executor, tmp_path):
    busy = [helpers.work("sample.sleep", seconds=60) for _ in range(2)]
    running = [(await helpers.start(executor, one))[0] for one in busy]
    waiting = helpers.work("sample.echo", trace=str(tmp_path / "ran"))
    queued = asyncio.create_task(executor.run(waiting, helpers.Watcher()))
    await asyncio.sleep(0)
    await executor.stop(waiting.key, force=False)
    assert await asyncio.wait_for(queued, 5) == base.Halted("not_started")
    for one in busy:
        await executor.stop(one.key, force=False)
    assert {(await task).how for task in running} == {"asked"}
    assert not (tmp_path / "ran").exists()


async def test_stopping_what_has_ended_is_ignored(executor):
    piece = helpers.work("sample.noop")
    await executor.run(piece, helpers.Watcher())
    await executor.stop(piece.key, force=True)
    assert isinstance(await outcome_of(executor, "sample.noop"), base.Succeeded)


async def test_a_stage_nobody_knows_is_refused(executor):
    outcome = await outcome_of(executor, "sample.no_such_stage")
    assert outcome.problem.code == "unknown_stage"
