"""A gate opens only where a Security-Auditor says so, and what it says is in the journal."""

from __future__ import annotations

import base64
import contextlib
import json

import nats
import nats.micro
import pytest
import pytest_asyncio

from agent import service
from agent.audit import questions
from protocol import audit, client, codec, events
from tests.execution.conftest import ray_cluster
from tests.service import helpers
from tests.service.helpers import stage

__all__ = ["ray_cluster"]

pytestmark = helpers.MARKS


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    settings = helpers.settings(tmp_path_factory.mktemp("agent"))
    modules = (*helpers.MODULES, "tests.security.sample_stages")
    async with service.running(settings, modules=modules) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    async with client.connect(agent.nats_url) as one:
        yield one


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "trace"


@pytest_asyncio.fixture(loop_scope="session")
async def auditor(agent):
    """Give a way to put an auditor on the bus that answers each question in a given way."""
    async with contextlib.AsyncExitStack() as stack:
        connection = await nats.connect(agent.nats_url)
        stack.push_async_callback(connection.close)

        async def put(answer):
            asked = []

            async def judge(request):
                asked.append(codec.decode(request.data, audit.SecurityAudit))
                await answer(request, asked[-1])

            made = await nats.micro.add_service(
                connection, name="security-auditor", version="1.0.0"
            )
            stack.push_async_callback(made.stop)
            subject = agent.names.audit_request
            await made.add_endpoint(name="audit", subject=subject, handler=judge)
            await connection.flush()
            return asked

        yield put


def saying(verdict, *reasons, **more):
    async def answer(request, asked):
        told = {"audit_id": asked.audit_id, "auditor": "ada"} | more
        said = audit.SecurityVerdict(verdict=verdict, reasons=list(reasons), **told)
        await request.respond(codec.encode(said))

    return answer


def gated(trace, **params):
    return [
        stage("gate", "gate.audit", params),
        stage("after", "service.work", {"trace": str(trace)}, needs=["gate"]),
    ]


def report_of(told):
    """Read the gate's report out of the journal itself."""
    (one,) = helpers.of(told, events.StageSucceeded, "gate")
    return json.loads(base64.b64decode(one.outputs["report"].uri.partition(",")[2]))


async def test_what_an_auditor_allows_goes_on_and_the_journal_has_its_word(ask, auditor, trace):
    asked = await auditor(saying("allow", "looks right", "x" * 5000))
    status, told = await helpers.done(ask, *gated(trace))
    assert status.state == "succeeded"
    assert any("work ended" in line for line in helpers.lines(trace))
    report = report_of(told)
    assert (report["verdict"], report["summary"]) == ("allow", "allowed by ada")
    assert report["reasons"].startswith("looks right")
    (question,) = asked
    assert (question.run_id, question.stage) == (status.run_id, "gate")
    assert report["audit_id"] == question.audit_id
    assert report["pipeline_digest"] == question.pipeline_digest


async def test_an_auditor_is_told_the_pipeline_the_model_and_what_we_find(ask, auditor):
    asked = await auditor(saying("allow"))
    status, told = await helpers.done(
        ask,
        stage("load", "ingest.table", {"uri": "/etc/passwd"}, on_failure="skip"),
        stage("fit", "security.fit", {"target": "y"}),
        stage("gate", "gate.audit", inputs={"model": "fit"}),
    )
    assert status.state == "succeeded", status
    (question,) = asked
    (accepted,) = helpers.of(told, events.RunAccepted)
    assert question.pipeline_digest == questions.digest(accepted.pipeline)
    assert question.requester == accepted.requester
    (fitted,) = helpers.of(told, events.StageSucceeded, "fit")
    assert question.model == fitted.outputs["model"]
    found = {one.rule: one for one in question.findings}
    assert found["pipeline/out-of-bounds"].severity == "high"
    assert "pipeline/no-deadline" in found
    assert "model/pickle" not in found


async def test_what_an_auditor_denies_fails_with_its_reasons(ask, auditor, trace):
    asked = await auditor(saying("deny", "nobody has signed for it"))
    status, told = await helpers.done(ask, *gated(trace))
    assert status.state == "failed"
    (failed,) = helpers.of(told, events.StageFailed, "gate")
    assert failed.problem.code == "denied"
    assert "ada denies" in failed.problem.message
    assert "nobody has signed for it" in failed.problem.message
    assert len(asked) == 1  # it is not asked again until somebody resumes
    assert not trace.exists()


async def test_silence_denies(ask, trace):
    status, told = await helpers.done(ask, *gated(trace, within_s=0.7))
    assert status.state == "failed"
    (failed,) = helpers.of(told, events.StageFailed, "gate")
    assert failed.problem.code == "denied"
    assert "within 0.7 s" in failed.problem.message
    assert not trace.exists()


async def test_silence_allows_where_the_pipeline_says_so(ask, trace):
    status, told = await helpers.done(ask, *gated(trace, within_s=0.3, on_silence="allow"))
    assert status.state == "succeeded"
    assert report_of(told)["verdict"] == "silence"


async def test_an_auditor_that_comes_late_is_still_asked(ask, auditor, trace):
    run_id = await helpers.submit(ask, *gated(trace, within_s=25))
    await helpers.wait_event(ask, run_id, events.StageStarted, "gate")
    await auditor(saying("allow"))
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


async def refusing(request, _):
    await request.respond_error("500", "no rules are loaded")


async def babbling(request, _):
    await request.respond(b'{"verdict": "maybe"}')


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusing, "no rules are loaded"),
        (babbling, "can't be read"),
        (saying("allow", audit_id="another"), "another question"),
    ],
)
async def test_an_answer_that_is_none_denies_though_silence_would_not(
    ask, auditor, trace, answer, said
):
    await auditor(answer)
    status, told = await helpers.done(ask, *gated(trace, on_silence="allow"))
    assert status.state == "failed"
    (failed,) = helpers.of(told, events.StageFailed, "gate")
    assert (failed.problem.code, said in failed.problem.message) == ("denied", True)
    assert not trace.exists()


async def test_a_gate_that_waits_is_cancelled_at_once(ask, trace):
    run_id = await helpers.submit(ask, *gated(trace, within_s=3600))
    await helpers.wait_event(ask, run_id, events.StageStarted, "gate")
    await ask.cancel(run_id)
    told = await helpers.story(ask, run_id)
    assert helpers.of(told, events.RunCancelled)
    assert helpers.of(told, events.StageCancelled, "gate")


async def test_a_resumed_run_asks_again_about_its_changed_parameters(ask, auditor, trace):
    answers = iter([saying("deny"), saying("allow")])

    async def changing(request, asked):
        await next(answers)(request, asked)

    asked = await auditor(changing)
    status, _ = await helpers.done(ask, *gated(trace))
    await ask.resume(status.run_id, params={"after": {"name": "other"}})
    assert (await helpers.ended(ask, status.run_id)).state == "succeeded"
    first, second = asked
    assert first.audit_id != second.audit_id
    assert first.pipeline_digest != second.pipeline_digest
