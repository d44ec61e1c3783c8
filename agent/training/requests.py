"""Owns how a stage's work becomes a training request."""

from __future__ import annotations

import datetime as dt
import hashlib

import msgspec

from agent.run import effects
from protocol import artifacts, training
from stages.training import model


def training_id(work: effects.Work) -> str:
    """Name the training by what it is, so that retries and restarts attach to the same one.

    The parameters and inputs are part of it: a run that goes on with changed parameters keeps its
    idempotency key, but wants another training.
    """
    key = work.idempotency_key or f"{work.key.run_id}/{work.key.stage}/{work.key.element}"
    content = msgspec.json.encode([key, work.params, _digests(work), work.seed], order="sorted")
    return f"train-{hashlib.sha256(content).hexdigest()[:32]}"


def _digests(work: effects.Work) -> dict[str, str]:
    return {port: _single(work, port).digest for port in work.inputs}


def _single(work: effects.Work, port: str) -> artifacts.ArtifactRef:
    found = work.inputs[port]
    if isinstance(found, artifacts.ArtifactRef):
        return found
    (single,) = found  # the door checks that the port takes one
    return single


def stage_of(work: effects.Work) -> model.TrainModel:
    """Decode the stage's parameters."""
    params = dict(work.params)
    return msgspec.convert(params, model.TrainModel)


def build(work: effects.Work, artifacts_uri: str, now: dt.datetime) -> training.TrainingRequest:
    """Make the request for this work."""
    stage = stage_of(work)
    features = _single(work, "features") if "features" in work.inputs else None
    seconds = None if work.deadline is None else max(0.1, (work.deadline - now).total_seconds())
    return training.TrainingRequest(
        training_id=training_id(work),
        framework=stage.framework,
        model=stage.model,
        target=stage.target,
        task=stage.task,
        params=stage.params,
        search=msgspec.convert(msgspec.to_builtins(stage.search), training.Search),
        validation=msgspec.convert(msgspec.to_builtins(stage.validation), training.Validation),
        metric=stage.metric,
        train=_single(work, "train"),
        features=features,
        artifacts_uri=artifacts_uri,
        seed=work.seed,
        cpu=work.resources.cpu,
        gpu=work.resources.gpu,
        deadline_s=seconds,
        epoch=work.epoch,
        run_id=work.key.run_id,
        stage=work.key.stage,
    )


def build_stage_inputs(work: effects.Work) -> tuple[model.TrainModel, artifacts.ArtifactRef]:
    """Give the stage and its training table, which is all a baseline needs."""
    return stage_of(work), _single(work, "train")
