"""Owns the claims about delegation: the real specialist, and peers that misbehave on a real bus."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal

import msgspec
import pytest

from agent import config
from agent.artifacts import store
from agent.execution import base
from agent.run import effects
from agent.training import delegation, requests
from protocol import artifacts, problems, subjects, training
from tests.specialist import test_specialist as claims

QUICK = config.Specialist(accept_timeout_s=0.5, heartbeat_s=0.3, missed_heartbeats=2)


class Heard:
    def __init__(self):
        self.notes, self.told, self.warned = [], [], []
        self.delegated = asyncio.Event()

    def began(self):
        pass

    def progress(self, fraction, message, metrics):
        self.told.append((fraction, message, metrics))

    def note(self, fact, details):
        self.notes.append((fact, dict(details)))
        self.delegated.set()

    def warn(self, severity, message, _work):
        self.warned.append((severity, message))


@pytest.fixture
def heard():
    return Heard()


def work_for(ref, key="run1/train", **params):
    return effects.Work(
        key=effects.WorkKey("run1", "train", None, 1),
        use="train.model",
        placement="training",
        params={"model": "LogisticRegression", "target": "target"} | params,
        inputs={"train": ref},
        idempotency_key=key,
        epoch=2,
    )


def executor(client, folder, heard, prefix, settings=QUICK):
    return delegation.SpecialistExecutor(
        client,
        subjects.Subjects(prefix),
        store.Store(folder.as_uri(), str(folder / "copies")).make(),
        settings,
        artifacts_uri=folder.as_uri(),
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        warn=heard.warn,
    )


class Peer:
    """A specialist that answers each request with the next line of a script."""

    def __init__(self, client, *script):
        self.client, self.script, self.asked = client, list(script), []

    async def open(self, prefix):
        await self.client.subscribe(f"{prefix}.ml.training.request", cb=self.answer)
        await self.client.subscribe(f"{prefix}.ml.training.cancel", cb=self.cancelled)

    async def answer(self, message):
        request = msgspec.json.decode(message.data, type=training.TrainingRequest)
        self.asked.append(request)
        for reply in self.script.pop(0)(request) if self.script else ():
            await self.client.publish(message.reply, msgspec.json.encode(reply))

    async def cancelled(self, message):
        """Never answer a cancellation."""


def accepted(request):
    return [training.TrainingAccepted(request.training_id, "peer")]


def failed(code, *, retryable):
    problem = problems.Problem(code=code, message="no", retryable=retryable)
    return lambda request: [training.TrainingFailed(request.training_id, problem)]


def result(epoch):
    model = artifacts.ArtifactRef("model", "sha256:" + "0" * 64, "x:", "a/b", 1)

    def script(request):
        return training.TrainingResult(request.training_id, model, {"e": epoch}, {}, epoch=epoch)

    return script


async def test_a_training_is_delegated_and_its_model_comes_back(asker, tmp_path, heard):
    one = executor(asker.client, tmp_path / "artifacts", heard, "codeguardian", config.Specialist())
    work = work_for(asker.store.put(claims.wine()))
    outcome = await one.run(work, heard)
    assert isinstance(outcome, base.Succeeded), outcome
    assert set(outcome.outputs) == {"model", "metrics", "report"}
    assert outcome.metrics["cv_f1_macro_mean"] > 0.9
    assert asker.store.get(outcome.outputs["report"]).data["trials"][0]["number"] == 0
    assert heard.notes[0][0] == "delegated"
    assert heard.notes[0][1]["training_id"] == requests.training_id(work)
    again = await one.run(work, heard)
    assert again.outputs == outcome.outputs


async def test_a_stopped_training_is_halted_with_the_specialists_proof(
    asker, specialist, tmp_path, heard
):
    one = executor(asker.client, tmp_path / "artifacts", heard, "codeguardian", config.Specialist())
    work = work_for(asker.store.put(claims.noise()), **claims.SLOW)
    running = asyncio.ensure_future(one.run(work, heard))
    await heard.delegated.wait()
    await one.stop(work.key, force=False)
    outcome = await running
    assert isinstance(outcome, base.Halted)
    assert (outcome.how, outcome.where) == ("asked", heard.notes[0][1]["specialist"])
    assert not specialist.trial_workers()


async def test_a_frozen_specialist_is_noticed_by_its_silence(asker, specialist, tmp_path, heard):
    settings = config.Specialist(accept_timeout_s=0.5, heartbeat_s=1.2, missed_heartbeats=2)
    one = executor(asker.client, tmp_path / "artifacts", heard, "codeguardian", settings)
    work = work_for(asker.store.put(claims.noise()), key="frozen", **claims.SLOW)
    running = asyncio.ensure_future(one.run(work, heard))
    await heard.delegated.wait()
    specialist.process.send_signal(signal.SIGSTOP)
    try:
        outcome = await running
    finally:
        specialist.process.send_signal(signal.SIGCONT)
    assert isinstance(outcome, base.Failed)
    assert (outcome.problem.code, outcome.problem.retryable) == ("unavailable", True)
    assert "has not" in outcome.problem.message
    await asker.send({"training_id": requests.training_id(work)}, "training.cancel")


async def test_without_a_specialist_the_stage_fails_with_an_alert(asker, tmp_path, heard):
    one = executor(asker.client, tmp_path / "artifacts", heard, "nobody")
    outcome = await one.run(work_for(asker.store.put(claims.wine())), heard)
    assert outcome.problem.message == "no specialist listens"
    assert outcome.problem.retryable
    assert heard.warned[0][0] == "critical"


async def test_without_a_specialist_a_baseline_can_stand_in(asker, tmp_path, heard):
    one = executor(asker.client, tmp_path / "artifacts", heard, "nobody")
    work = work_for(asker.store.put(claims.wine()), fallback={"use": "baseline"})
    outcome = await one.run(work, heard)
    assert asker.store.get(outcome.outputs["model"]).card.estimator == "DummyClassifier"
    fact, details = heard.notes[0]
    assert (fact, details["fallback"]) == ("fallback_used", "baseline DummyClassifier")
    assert details["problem"]["code"] == "unavailable"
    assert heard.warned[0][0] == "warning"


async def test_a_missing_champion_leaves_the_first_problem(asker, tmp_path, heard):
    one = executor(asker.client, tmp_path / "artifacts", heard, "nobody")
    fallback = {"use": "champion", "model": "none"}
    outcome = await one.run(work_for(asker.store.put(claims.wine()), fallback=fallback), heard)
    assert outcome.problem.code == "unavailable"
    assert "has no champion" in heard.warned[0][1]


async def test_a_retryable_problem_is_asked_again_under_the_same_id(asker, tmp_path, heard):
    peer = Peer(
        asker.client,
        failed("worker_lost", retryable=True),
        lambda request: [*accepted(request), result(2)(request)],
    )
    await peer.open("flaky")
    one = executor(asker.client, tmp_path / "artifacts", heard, "flaky")
    outcome = await one.run(work_for(asker.store.put(claims.wine())), heard)
    assert outcome.metrics == {"e": 2}
    assert len({request.training_id for request in peer.asked}) == 1
    assert len(peer.asked) == 2


async def test_a_data_fault_is_not_asked_again_and_has_no_fallback(asker, tmp_path, heard):
    peer = Peer(asker.client, failed("data_fault", retryable=False))
    await peer.open("strict")
    one = executor(asker.client, tmp_path / "artifacts", heard, "strict")
    work = work_for(asker.store.put(claims.wine()), fallback={"use": "baseline"})
    outcome = await one.run(work, heard)
    assert outcome.problem.code == "data_fault"
    assert len(peer.asked) == 1


async def test_a_late_result_of_a_lower_epoch_is_ignored(asker, tmp_path, heard):
    peer = Peer(asker.client, lambda r: [*accepted(r), result(1)(r), result(2)(r)])
    await peer.open("late")
    one = executor(asker.client, tmp_path / "artifacts", heard, "late")
    outcome = await one.run(work_for(asker.store.put(claims.wine())), heard)
    assert outcome.metrics == {"e": 2}


async def test_force_ends_the_wait_and_says_what_is_known(asker, tmp_path, heard):
    patient = config.Specialist(heartbeat_s=60)
    peer = Peer(asker.client, accepted)
    await peer.open("mute")
    one = executor(asker.client, tmp_path / "artifacts", heard, "mute", patient)
    work = work_for(asker.store.put(claims.wine()))
    running = asyncio.ensure_future(one.run(work, heard))
    await heard.delegated.wait()
    await one.stop(work.key, force=True)
    outcome = await running
    assert outcome.how == "forced"
    assert "has not proved" in outcome.where


def test_changed_parameters_are_another_training():
    ref = artifacts.ArtifactRef("table", "sha256:" + "1" * 64, "x:", "a/b", 1)
    same = requests.training_id(work_for(ref))
    assert requests.training_id(work_for(ref)) == same
    assert requests.training_id(work_for(ref, params={"C": 2.0})) != same


def test_the_deadline_of_the_work_is_the_specialists():
    ref = artifacts.ArtifactRef("table", "sha256:" + "1" * 64, "x:", "a/b", 1)
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    work = msgspec.structs.replace(work_for(ref), deadline=now + dt.timedelta(seconds=9))
    assert requests.build(work, "x:", now).deadline_s == 9
