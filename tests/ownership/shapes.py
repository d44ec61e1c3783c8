"""Owns the runs of the simulation: a few shapes, each with something that can go wrong."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from protocol import events, pipelines, subjects


def acceptance(number: int, priority: int, now: dt.datetime) -> events.Commit:
    """Give the first commit of a run of one of a few shapes."""

    def stage(name: str, use: str = "service.work", after: str = "", **more: Any) -> Any:
        params = {} if use == "sample.noop" else {"trace": "nowhere"}
        inputs = {"inputs": {"report": after}} if after else {}
        retry = {"retry": {"max_attempts": 3, "backoff_s": 0.2}}
        return {"id": name, "use": use, "with": params, **inputs, **retry, **more}

    points = {"id": "p", "use": "service.points"}
    learner = {"model": "LogisticRegression", "target": "target"}
    training = {"id": "t", "use": "train.model", "with": learner, "inputs": {"train": "p.table"}}
    training |= {"timeout_s": 2.0, "retry": {"max_attempts": 3, "backoff_s": 0.2}}
    shapes = [
        [stage("a"), stage("b", after="a"), stage("ship", "service.ship", "b")],
        [stage("a"), stage("gate", after="a", approval={"timeout_s": 20.0}), stage("c")],
        [stage("a", timeout_s=1.0), stage("b", timeout_s=1.0), stage("s", "service.ship", "a")],
        [points, training],
    ]
    pipeline = {"name": "p", "stages": shapes[number % len(shapes)]}
    run_id = subjects.run_id_for("simulation", f"request-{number}")
    accepted = events.RunAccepted(
        at=now,
        cause="",
        run_id=run_id,
        request_id=f"request-{number}",
        requester="simulation",
        pipeline=msgspec.convert(pipeline, pipelines.Pipeline),
        options=pipelines.Options(priority=priority),
    )
    return events.Commit(
        run_id=run_id, number=1, epoch=0, owner="door", at=now, previous="", events=[accepted]
    )
