"""Owns how a network is trained and judged: by epochs, on one validation part, with checkpoints.

A network is not cross-validated and refitted: each candidate is one training, and its best epoch is
its model. Nothing here knows which library the network is of: weights are NumPy arrays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import msgspec

from stages.evaluate import scores
from stages.frameworks import base, faults, folds, tables

if TYPE_CHECKING:
    import pyarrow as pa

Arrays = dict[str, Any]
"""Named NumPy arrays."""
P = TypeVar("P", bound="Pace")
_NOW, _BEST, _STATE = "now/", "best/", "state/"


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long is trained; every framework's own parameters add to these."""

    epochs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10
    patience: Annotated[int, msgspec.Meta(ge=1)] | None = 3
    """Epochs without a better score after which it is stopped early; `null` for never."""


class Learner(Protocol):
    """A network at work. Whatever it draws follows from the seed and the epoch's number."""

    def epoch(self, number: int) -> float:
        """Train once over the training rows; give the mean loss."""

    def probabilities(self) -> Any:
        """Predict the validation rows: an array of rows and classes."""

    def weights(self) -> Arrays:
        """Copy what the model is."""

    def state(self) -> Arrays:
        """Copy what else training needs to go on: the optimiser's."""

    def restore(self, weights: Arrays, state: Arrays) -> None:
        """Go on from these."""


class Progress(msgspec.Struct):
    """How far a training is."""

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = float("-inf")
    """Higher is better."""
    metrics: dict[str, float] = {}
    """Of the best epoch, those that are finite."""
    seconds: float = 0.0


class Parts(msgspec.Struct, frozen=True):
    """Row positions to train and to validate on, and the position of each row's class."""

    train: Any
    validation: Any
    codes: Any


def settings(lesson: base.Lesson, params: dict[str, Any], kind: type[P]) -> P:
    """Decode parameters; raise faults.UnknownName or faults.BadRequest with their path."""
    given = lesson.params | params
    known = kind.__struct_fields__
    for name in given:
        if name not in known:
            raise faults.UnknownName(
                f"parameter of {lesson.model}", name, known, f"$.params.{name}"
            )
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise faults.BadRequest(message, path=f"$.params{place.rstrip('`')}") from error


def parts(setup: base.Setup, table: pa.Table) -> Parts:
    """Split the rows once, as one of the folds; the last of them, which `time` makes the latest."""
    import numpy as np

    lesson, facts = setup.lesson, setup.facts
    target = tables.target(lesson, facts, table)
    groups = tables.groups(lesson, table)
    *_, (train, validation) = folds.splits(lesson, facts, target, groups)
    places = {label: place for place, label in enumerate(facts.classes)}
    codes = np.array([places[label] for label in target.tolist()])
    return Parts(train, validation, codes)


def run(
    learner: Learner, pace: Pace, setup: base.Setup, actual: Any, checkpoint: bytes | None
) -> Iterator[base.Step | base.Verdict]:
    """Train epoch by epoch, from a checkpoint on; stop early; tell the best epoch as the verdict.

    `actual` holds the positions of the validation rows' classes.
    """
    progress, best = Progress(), learner.weights()
    if checkpoint is not None and (kept := _unpacked(checkpoint)) is not None:
        progress, now, best, state = kept
        learner.restore(now, state)
    while not _done(progress, pace):
        loss = _epoch(learner, progress, setup, actual)
        if not _finite(loss, progress):
            error = f"the loss or score is not finite after epoch {progress.epoch}: {loss:g}"
            yield base.Verdict("failed", error=error, duration_s=progress.seconds)
            return
        if progress.best_epoch == progress.epoch:
            best = learner.weights()
        yield _step(progress, pace, loss, setup, _pack(progress, learner, best))
    yield _verdict(progress)


def _epoch(learner: Learner, progress: Progress, setup: base.Setup, actual: Any) -> float:
    """Train and judge once; give the loss, which is NaN where the predictions are."""
    import numpy as np

    began = time.perf_counter()
    loss = learner.epoch(progress.epoch)
    progress.epoch += 1
    probabilities = learner.probabilities()
    if np.isfinite(probabilities).all():
        _judge(progress, setup, _measure(setup, probabilities, actual))
    else:
        loss = math.nan
    progress.seconds += time.perf_counter() - began
    return loss


def _judge(progress: Progress, setup: base.Setup, measured: dict[str, float]) -> None:
    score = scores.oriented(setup.metric, measured[setup.metric])
    if not score <= progress.best_score:
        progress.best_epoch, progress.best_score = progress.epoch, score
        progress.metrics = {n: value for n, value in measured.items() if math.isfinite(value)}


def _measure(setup: base.Setup, probabilities: Any, actual: Any) -> dict[str, float]:
    import numpy as np

    classes = setup.facts.classes
    labels = np.array(classes, dtype=None if isinstance(classes[0], (int, bool)) else object)
    predicted = labels[probabilities.argmax(axis=1)]
    return {
        name: scores.compute(name, labels[actual], predicted, probabilities, classes)
        for name in scores.names(setup.facts.task)
    }


def _finite(loss: float, progress: Progress) -> bool:
    return math.isfinite(loss) and math.isfinite(progress.best_score)


def _done(progress: Progress, pace: Pace) -> bool:
    waited = progress.epoch - progress.best_epoch
    stale = pace.patience is not None and progress.epoch > 0 and waited >= pace.patience
    return progress.epoch >= pace.epochs or stale


def _step(
    progress: Progress, pace: Pace, loss: float, setup: base.Setup, checkpoint: bytes
) -> base.Step:
    metric = setup.metric
    best = scores.oriented(metric, progress.best_score)
    said = f"epoch {progress.epoch} of {pace.epochs}"
    return base.Step(
        fraction=progress.epoch / pace.epochs,
        message=f"{said}: loss {loss:.4f}, best {metric} {best:.4f}",
        metrics={"epoch": progress.epoch, "loss": loss, f"best_{metric}": best},
        checkpoint=checkpoint,
    )


def _verdict(progress: Progress) -> base.Verdict:
    measured = {f"validation_{name}": value for name, value in progress.metrics.items()}
    counted = {"epochs": float(progress.epoch), "best_epoch": float(progress.best_epoch)}
    return base.Verdict(
        "complete",
        scores=[progress.best_score],
        metrics=measured | counted,
        duration_s=progress.seconds,
    )


def fitted(
    score: Callable[[], Iterator[base.Step | base.Verdict]],
    checkpoint: bytes | None,
    details: dict[str, Any],
) -> base.Fitted:
    """Give the best epoch of a candidate; one whose checkpoint is lost is trained again."""
    import safetensors.numpy

    kept = None if checkpoint is None else _unpacked(checkpoint)
    for step in () if kept is not None else score():
        if isinstance(step, base.Step) and step.checkpoint is not None:
            kept = _unpacked(step.checkpoint)
    assert kept is not None
    _, _, best, _ = kept
    return base.Fitted(safetensors.numpy.save(best), details)


def _pack(progress: Progress, learner: Learner, best: Arrays) -> bytes:
    """Write a checkpoint as safetensors; an epoch that is the best one is in it once."""
    import safetensors.numpy

    now = {} if progress.best_epoch == progress.epoch else learner.weights()
    groups = {_NOW: now, _BEST: best, _STATE: learner.state()}
    arrays = {
        prefix + name: array for prefix, each in groups.items() for name, array in each.items()
    }
    told = msgspec.json.encode(progress).decode()
    return safetensors.numpy.save(arrays, metadata={"progress": told})


def _unpacked(checkpoint: bytes) -> tuple[Progress, Arrays, Arrays, Arrays] | None:
    """Read a checkpoint; None if it is damaged, so that the training is begun anew."""
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(checkpoint)
        size = int.from_bytes(checkpoint[:8], "little")
        header = msgspec.json.decode(checkpoint[8 : 8 + size])
        progress = msgspec.json.decode(header["__metadata__"]["progress"], type=Progress)
    except (safetensors.SafetensorError, msgspec.MsgspecError, KeyError):
        return None
    now, best, state = (
        {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
        for prefix in (_NOW, _BEST, _STATE)
    )
    return progress, now or best, best, state
