"""What each requester may have: what is refused at the door, and what the run is held to."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from agent import config, layers, service
from agent.swarm import assignments
from protocol import client, events, signing, subjects
from tests.execution import helpers as executing
from tests.service import helpers
from tests.service.helpers import stage

ADA = signing.Key(signing.new_seed())
SMALL = config.Allowance(
    max_stages=2, max_fan_out=3, max_payload_bytes=1000, max_artifact_bytes=3000, max_run_s=1.5
)
LIMITS = config.Limits(
    default=config.Allowance(max_stages=20),
    requesters={
        "small": SMALL,
        "few": config.Allowance(max_active=2),
        "hasty": config.Allowance(max_waiting=1),
        "ada": config.Allowance(max_active=1),
    },
)


def with_agent(test):
    for mark in helpers.MARKS:
        test = mark(test)
    return test


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def limited(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent that knows some requesters, and conducts four runs at a time."""
    settings = helpers.settings(
        tmp_path_factory.mktemp("limited"),
        limits=LIMITS,
        runs=config.Runs(lease_s=helpers.LEASE_S, max_active=4),
        security=config.Security(trusted_keys=(f"ada={ADA.public}",)),
    )
    async with service.running(settings, modules=helpers.MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ask(limited):
    async with client.connect(limited.nats_url) as one:
        yield one


def request(who, *stages, **options):
    pipeline = {"name": "p", "stages": list(stages or [stage("a", "sample.noop")])}
    return client.make_request(pipeline=pipeline, requester=who, options=options)


def work(trace, until):
    return stage("w", "service.work", {"trace": str(trace), "until": str(until)})


async def refusal(asking):
    with pytest.raises(client.Refused) as refused:
        await asking
    return refused.value.problem


async def wait_counted(limited, who, *, at_work):
    """Wait until the agent has heard that so many runs of a requester have begun."""
    await helpers.wait_until(
        lambda: list(limited.index.going(who).values()).count("running") == at_work
    )


async def finish(limited, ask, until, *runs):
    """Let runs end, and wait until the agent has heard of it."""
    until.touch()
    for run in runs:
        assert (await helpers.ended(ask, run.run_id)).state == "succeeded"
    await wait_free(limited, "few", "hasty", "ada", "bob")


async def wait_free(limited, *requesters):
    """Wait until the agent has heard that none of these has a run any more."""
    await helpers.wait_until(lambda: not any(map(limited.index.going, requesters)))


# Settings.


def test_limits_come_from_every_place_that_settings_come_from(tmp_path):
    file = tmp_path / "mlpm.toml"
    file.write_text(
        '[limits.default]\nmax_active = 3\n[limits.requesters."a.b@c d"]\nmax_stages = 5\n'
    )
    found = layers.load(file, {}, ["limits.default.max_waiting=2"]).limits
    assert found.default == config.Allowance(max_active=3, max_waiting=2)
    assert found.requesters == {"a.b@c d": config.Allowance(max_stages=5)}
    said = {"MLPM_LIMITS__REQUESTERS": json.dumps({"ada": {"max_run_s": 60}})}
    found = layers.load(None, said).limits
    assert found.requesters == {"ada": config.Allowance(max_run_s=60)}


@pytest.mark.parametrize(
    "text", ["ada", '{"ada": {"max_stage": 1}}', '{"ada": {"max_stages": 0}}', "[1]"]
)
def test_limits_that_are_none_are_refused(text):
    with pytest.raises(config.BadValue) as refused:
        layers.load(None, {}, [f"limits.requesters={text}"])
    assert refused.value.key == "limits.requesters"


# What is refused at the door.


@with_agent
async def test_all_that_is_too_much_is_told_at_once_with_the_setting_it_comes_from(ask):
    stages = [stage(f"s{n}", "sample.echo", {"value": "x" * 400}) for n in range(3)]
    asked = request("small", *stages, stage("bad", "no.such"))
    problem = await refusal(ask.submit(asked))
    told = {one.code: one for one in problem.problems}
    assert [one.path for one in problem.problems] == [
        "$.pipeline.stages[3].use",
        "$",
        "$.pipeline.stages",
    ]
    assert told["payload_too_large"].hint == (
        'the agent\'s setting limits.requesters."small".max_stages is 2'
    )
    report = await ask.validate(asked)
    assert report.problems == problem.problems


@with_agent
async def test_whoever_has_no_limit_of_their_own_has_the_default(ask):
    stages = [stage(f"s{n}", "sample.noop") for n in range(21)]
    problem = await refusal(ask.submit(request("anybody", *stages)))
    assert (problem.code, problem.retryable) == ("payload_too_large", False)
    assert problem.message == "the pipeline has 21 stages, and 'anybody' may have 20"
    assert "limits.default.max_stages is 20" in problem.hint
    few = await refusal(ask.submit(request("few", *stages)))
    assert "limits.default.max_stages" in few.hint


@with_agent
async def test_more_runs_at_once_than_allowed_are_overloaded_and_taken_later(
    limited, ask, trace, tmp_path
):
    go = tmp_path / "go"
    held = [await ask.submit(request("few", work(trace, go))) for _ in range(2)]
    third = request("few")
    problem = await refusal(ask.submit(third))
    assert (problem.code, problem.path, problem.retryable) == ("overloaded", "$.requester", True)
    assert problem.message == ("'few' has 2 runs that are queued or under way, and may have 2")
    assert "again after 5 s" in problem.hint
    assert 'limits.requesters."few".max_active is 2' in problem.hint
    assert not (await ask.validate(third)).ok
    await ask.submit(request("another"))
    await finish(limited, ask, go, *held)
    taken = await ask.submit(third)
    assert not taken.duplicate
    await finish(limited, ask, go, taken)


@with_agent
async def test_a_refusal_for_now_says_in_a_header_when_to_ask_again(limited, ask, trace, tmp_path):
    go = tmp_path / "go"
    held = [await ask.submit(request("few", work(trace, go))) for _ in range(2)]
    body = {"request_id": "again", "requester": "few", "pipeline": {"name": "p", "stages": []}}
    body["pipeline"]["stages"] = [stage("a", "sample.noop")]
    subject = ask.names.pipeline_request
    headers, problem = await helpers.ask_raw(ask.connection, subject, body)
    assert (headers[subjects.RETRY_AFTER], problem["code"]) == ("5", "overloaded")
    assert headers["Nats-Service-Error-Code"] == "429"
    del body["pipeline"]
    headers, problem = await helpers.ask_raw(ask.connection, subject, body)
    assert (subjects.RETRY_AFTER in headers, problem["code"]) == (False, "invalid_field")
    await finish(limited, ask, go, *held)


@with_agent
async def test_a_request_that_comes_again_is_the_same_run_and_not_one_too_many(
    limited, ask, trace, tmp_path
):
    go = tmp_path / "go"
    asked = [request("few", work(trace, go)) for _ in range(2)]
    held = [await ask.submit(one) for one in asked]
    again = await ask.submit(asked[0])
    assert (again.duplicate, again.run_id) == (True, held[0].run_id)
    await finish(limited, ask, go, *held)


@with_agent
async def test_of_many_requests_at_the_same_moment_only_so_many_are_accepted(
    limited, ask, trace, tmp_path
):
    go = tmp_path / "go"
    asking = (ask.submit(request("few", work(trace, go))) for _ in range(12))
    told = await asyncio.gather(*asking, return_exceptions=True)
    held = [one for one in told if not isinstance(one, BaseException)]
    refused = [one.problem.code for one in told if isinstance(one, client.Refused)]
    assert (len(held), refused) == (2, ["overloaded"] * 10)
    await finish(limited, ask, go, *held)


@with_agent
async def test_a_run_that_waits_for_a_person_does_not_count(limited, ask):
    gate = stage("g", "sample.noop", approval={})
    held = [await ask.submit(request("few", gate)) for _ in range(2)]
    for run in held:
        await helpers.wait_state(ask, run.run_id, "waiting")
    await wait_free(limited, "few")
    third = await ask.submit(request("few"))
    await helpers.ended(ask, third.run_id)
    for run in held:
        await ask.cancel(run.run_id)
    await wait_free(limited, "few")


@with_agent
async def test_runs_that_nobody_has_taken_are_limited_by_themselves(limited, ask, trace, tmp_path):
    go = tmp_path / "go"
    held = [await ask.submit(request("hasty", work(trace, go)))]
    for count in range(1, 4):
        await wait_counted(limited, "hasty", at_work=count)
        held.append(await ask.submit(request("hasty", work(trace, go))))
    await wait_counted(limited, "hasty", at_work=4)
    held.append(await ask.submit(request("hasty")))
    problem = await refusal(ask.submit(request("hasty")))
    assert problem.message == "'hasty' has 1 runs that no agent has taken yet, and may have 1"
    await finish(limited, ask, go, *held)


@with_agent
async def test_a_signature_says_whose_limits_hold_and_a_claim_takes_nothing_away(
    limited, ask, trace, tmp_path
):
    go = tmp_path / "go"
    claimed = await ask.submit(request("ada", work(trace, go)))
    async with client.connect(limited.nats_url, signing_key=ADA) as signing_one:
        own = await signing_one.submit(request("bob", work(trace, go)))
        problem = await refusal(signing_one.submit(request("bob")))
    assert problem.message.startswith("'ada' has 1 runs")
    assert (await refusal(ask.submit(request("ada")))).code == "overloaded"
    free = await ask.submit(request("bob"))
    await finish(limited, ask, go, claimed, own, free)


# What the run is held to.


@with_agent
async def test_a_fan_out_that_is_too_wide_fails_when_it_is_about_to_begin(ask):
    def fan(count):
        return [
            stage("items", "sample.items", {"items": list(range(count))}),
            stage("each", "sample.echo", for_each={"items": "items", "as": "value"}),
        ]

    narrow = await ask.submit(request("small", *fan(3)))
    assert (await helpers.ended(ask, narrow.run_id)).state == "succeeded"
    wide = await ask.submit(request("small", *fan(4)))
    status = await helpers.ended(ask, wide.run_id)
    problem = helpers.by_id(status)["each"].problem
    assert (status.state, problem.code) == ("failed", "fan_out_too_large")
    assert problem.message == "4 elements are more than the 3 that are allowed"
    assert "max_fan_out of the requester" in problem.hint
    free = await ask.submit(request("anybody", *fan(4)))
    assert (await helpers.ended(ask, free.run_id)).state == "succeeded"


@with_agent
async def test_an_output_that_is_too_large_is_not_stored_and_not_tried_again(limited, ask):
    def echo(size):
        return stage("a", "sample.items", {"items": ["large one"] * (size // 12)}, cache="off")

    fits = await ask.submit(request("small", echo(600)))
    assert (await helpers.ended(ask, fits.run_id)).state == "succeeded"
    grown = stage("b", "service.grow", {"size": 5000})
    before = set(limited.store.digests())
    run = await ask.submit(request("small", grown))
    told = await helpers.story(ask, run.run_id)
    (failed,) = helpers.of(told, events.StageFailed)
    assert (failed.problem.code, failed.attempt) == ("payload_too_large", 1)
    assert "may store 3000 in one" in failed.problem.message
    assert "max_artifact_bytes" in failed.problem.hint
    assert {digest for digest, _ in limited.store.digests()} == {digest for digest, _ in before}
    free = await ask.submit(request("anybody", grown))
    assert (await helpers.ended(ask, free.run_id)).state == "succeeded"


def test_an_assignment_to_another_agent_carries_the_limit():
    piece = executing.work("sample.noop")
    assert assignments.assign("a-1", piece).max_artifact_bytes is None
    limited = type(piece)(piece.key, piece.use, piece.placement, {}, {}, max_artifact_bytes=5)
    asked = assignments.assign("a-1", limited)
    assert assignments.work_of(asked, "ray", 1).max_artifact_bytes == 5


@with_agent
@pytest.mark.parametrize("deadline_s", [None, 60.0])
async def test_a_run_has_no_more_time_than_its_requester(ask, deadline_s):
    options = {} if deadline_s is None else {"deadline_s": deadline_s}
    run = await ask.submit(request("small", stage("a", "sample.sleep", {"seconds": 50}), **options))
    told = await helpers.story(ask, run.run_id)
    (accepted,) = helpers.of(told, events.RunAccepted)
    assert accepted.options.deadline_s == 1.5
    assert (await ask.status(run.run_id)).problem.code == "deadline_exceeded"


@with_agent
async def test_a_shorter_deadline_stays_as_it_was_asked_for(ask):
    run = await ask.submit(request("small", deadline_s=1.0))
    told = await helpers.story(ask, run.run_id)
    assert helpers.of(told, events.RunAccepted)[0].options.deadline_s == 1.0
