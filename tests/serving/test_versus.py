"""Two versions share the requests, and what came of their predictions decides; a real client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest

from agent import tasks
from protocol import client, events, serving
from tests.service import helpers
from tests.serving import load
from tests.serving.test_canary import deploy, only, shifted

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("serving"),
]
KEYS = 40


class Users:
    """Users with keys of their own, who tell what came of each prediction."""

    def __init__(self, work, ask, url, value_of):
        self.versions: dict[str, set[str]] = {}
        self.taken: list[serving.OutcomeTaken] = []
        self.failed: list[object] = []
        self._work, self._ask, self._url, self._value_of = work, ask, url, value_of

    async def over_http(self, key):
        headers = {serving.ASSIGNMENT_KEY: key}
        answer = await self._work.http.post(self._url, content=load.ROW, headers=headers)
        if answer.status_code != 200:
            self.failed.append(answer.text)
        if prediction := answer.headers.get(serving.PREDICTION_ID):
            self.versions.setdefault(key, set()).add(answer.headers[serving.MODEL_VERSION])
            value = self._value_of(round(answer.json()["predictions"][0]))
            body = b'{"prediction": "%s", "value": %f}' % (prediction.encode(), value)
            where = self._url.replace(":predict", ":outcome")
            self._take(await self._work.http.post(where, content=body))

    def _take(self, told):
        if told.status_code == 200:  # it may have ended since
            self.taken.append(serving.OutcomeTaken(**told.json()))

    async def on_bus(self, key):
        asked = serving.Predict(row={"x": 1})
        told, version, prediction = await self._ask.predict("line", asked, key=key)
        if prediction:
            self.versions.setdefault(key, set()).add(version)
            value = self._value_of(round(told.predictions[0]))
            with contextlib.suppress(client.Refused):  # the same
                self.taken.append(await self._ask.outcome("line", prediction, value))

    async def go_on(self):
        for place in itertools.count():
            await self.over_http(f"web-{place}")
            await self.on_bus(f"bus-{place}")
            await self.over_http(f"again-{place % KEYS}")


@contextlib.asynccontextmanager
async def using(work, ask, url, value_of):
    users = Users(work, ask, url, value_of)
    task = asyncio.create_task(users.go_on())
    try:
        yield users
    finally:
        await tasks.end(task)


async def test_outcomes_promote_keep_or_leave_it_open(work, ask):
    status, told = await deploy(ask, "line", 1.0)
    (first,) = helpers.of(told, events.StageDeployed)
    versus = {"percent": 50, "max_outcomes": 5_000}
    async with using(work, ask, first.url, lambda slope: float(slope == 2)) as users:
        status, told = await deploy(ask, "line", 2.0, versus=versus)
    assert status.state == "succeeded", status
    assert users.failed == []
    assert shifted(told) == [("versus", 50), ("serves", 100)]
    (second,) = helpers.of(told, events.StageDeployed)
    (stored,) = helpers.of(told, events.StageSucceeded, "go")
    assert (stored.metrics["outcome_mean"], stored.metrics["before_outcome_mean"]) == (1, 0)
    assert stored.metrics["outcome_low"] > stored.metrics["before_outcome_high"]
    assert all(len(versions) == 1 for versions in users.versions.values())
    assert {one.version for one in users.taken} == {first.version, second.version}
    counted = [one for one in users.taken if one.counted]
    assert len({one.prediction for one in counted}) == len(counted)
    await only(ask, "line", second.version)

    async with using(work, ask, first.url, lambda slope: float(slope == 2)):
        status, told = await deploy(ask, "line", 3.0, versus=versus)
    assert (status.problem.code, "it is worse" in status.problem.message) == ("denied", True)
    assert shifted(told) == [("versus", 50), ("rolled_back", 0)]

    async with using(work, ask, first.url, lambda _: 0.5):
        status, _ = await deploy(ask, "line", 3.0, versus={"max_outcomes": 20})
    assert status.problem.code == "denied"
    assert "leave it open which version is better" in status.problem.message
    await only(ask, "line", second.version)


async def test_an_outcome_of_an_unknown_prediction_is_a_clear_error_in_both_places(work, ask):
    _, told = await deploy(ask, "line", 1.0)
    (deployed,) = helpers.of(told, events.StageDeployed)
    where = deployed.url.replace(":predict", ":outcome")
    answer = await work.http.post(where, content=b'{"prediction": "never", "value": 1}')
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    with pytest.raises(client.Refused, match="no prediction 'never' of 'line' is known"):
        await ask.outcome("line", "never", 1.0)
    wrong = await work.http.post(where, content=b'{"prediction": "never", "value": 2}')
    assert (wrong.status_code, wrong.json()["path"]) == (400, "$.value")
