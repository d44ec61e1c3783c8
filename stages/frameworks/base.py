"""Owns the contract of a framework: how its models are judged and fitted, loaded and used.

The specialist trains through it, and stages use models through it. Nothing else knows which
framework a model is of.
"""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from stages import cards
from stages.evaluate import scores
from stages.frameworks import faults

if TYPE_CHECKING:
    import pyarrow as pa

Task = Literal["classification", "regression", "forecast"]


class Lesson(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be learned, by which model, and how that is judged."""

    framework: str
    model: str
    target: str
    task: Task | None = None
    params: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    """One value of each parameter that is searched, to be checked before the search."""
    folds: int = 5
    scheme: str = "auto"
    group: str | None = None
    metric: str | None = None
    seed: int = 0
    cpu: float = 1.0


class Facts(msgspec.Struct, frozen=True):
    """What the checks found, small enough to travel."""

    task: Task
    rows: int
    columns: list[tuple[str, str]]
    """Name and Arrow type of each column the model takes."""
    classes: list[Any] = []


class Setup(msgspec.Struct, frozen=True):
    """What every candidate of a training shares."""

    lesson: Lesson
    facts: Facts
    metric: str
    plan: bytes | None = None
    """The steps of the feature plan as JSON."""


class Step(msgspec.Struct, frozen=True):
    """How far the judging of a candidate is, and what lets it go on from here."""

    fraction: float
    message: str
    metrics: dict[str, float] = {}
    checkpoint: bytes | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What became of a candidate; scores are per fold, higher is better."""

    state: Literal["complete", "failed", "pruned"]
    scores: list[float] = []
    metrics: dict[str, float] = {}
    """`cv_<metric>_mean` and `cv_<metric>_std`, or `validation_<metric>` of a single split."""
    error: str = ""
    duration_s: float = 0.0

    @property
    def mean(self) -> float:
        """Average the folds."""
        return sum(self.scores) / len(self.scores)

    @property
    def std(self) -> float:
        """Give the folds' standard deviation."""
        mean = self.mean
        return float((sum((s - mean) ** 2 for s in self.scores) / len(self.scores)) ** 0.5)


class Fitted(msgspec.Struct, frozen=True):
    """A fitted model: its weights in a safe format, and what its card says of them."""

    payload: bytes
    details: dict[str, Any] = {}


class Predictor(Protocol):
    """A loaded model, in scikit-learn's words: it takes a data frame of raw columns.

    A classifier has `classes_` and `predict_proba` as well.
    """

    def predict(self, frame: Any) -> Any:
        """Give a value or class for each row."""


class Framework(abc.ABC):
    """One way to train and to use models. An instance has no state."""

    names: ClassVar[tuple[str, ...]]
    """By which `framework` of a request and of a card it is known."""
    payload: ClassVar[str]
    """The weights' name in the model file; it tells their format."""
    libraries: ClassVar[tuple[str, ...]]
    """Distributions whose versions a card records; the first one's major version has to match."""

    @abc.abstractmethod
    def natural_task(self, model: str) -> Task:
        """Tell what a model of this name is for. Raises faults.UnknownName."""

    @abc.abstractmethod
    def prepare(self, lesson: Lesson, table: pa.Table, plan: bytes | None) -> Setup:
        """Check data and parameters before anything is trained. Raises a kit.StageFault."""

    @abc.abstractmethod
    def score(
        self,
        setup: Setup,
        table: pa.Table,
        params: dict[str, Any],
        *,
        floor: float | None,
        checkpoint: bytes | None,
    ) -> Iterator[Step | Verdict]:
        """Judge one candidate: tell steps, and last the verdict.

        `floor` is the worst score of the best earlier candidate. `checkpoint` is that of the last
        step that was told, where an earlier try was cut off.
        """

    @abc.abstractmethod
    def fit(
        self, setup: Setup, table: pa.Table, params: dict[str, Any], checkpoint: bytes | None
    ) -> Fitted:
        """Give the chosen candidate's model; `checkpoint` is that of its last step."""

    @abc.abstractmethod
    def load(self, card: cards.ModelCard, payload: bytes) -> Predictor:
        """Load weights. Raises cards.UntrustedModel for what is not a safe file of this card."""

    def blank(self, card: cards.ModelCard, payload: bytes) -> Any:  # noqa: ARG002 - for others
        """Give an unfitted copy of the whole recipe, where the framework fits on folds."""
        raise faults.NoRefit(card.framework)

    @abc.abstractmethod
    def export(
        self, card: cards.ModelCard, payload: bytes, path: pathlib.Path, signature: Any
    ) -> None:
        """Write the folder that MLflow's own tools read."""


def metric_of(lesson: Lesson, task: Task) -> str:
    """Name the metric that decides. Raises faults.UnknownName."""
    metric = lesson.metric or scores.DEFAULTS[task]
    if metric not in scores.names(task):
        raise faults.UnknownName(f"{task} metric", metric, scores.names(task), "$.metric")
    return metric


def card_of(
    framework: Framework,
    setup: Setup,
    params: dict[str, Any],
    metrics: dict[str, float],
    details: dict[str, Any],
) -> cards.ModelCard:
    """Describe the model of a candidate."""
    lesson, facts = setup.lesson, setup.facts
    return cards.ModelCard(
        framework=lesson.framework,
        estimator=lesson.model,
        task=facts.task,
        target=lesson.target,
        columns=[cards.Column(name, kind) for name, kind in facts.columns],
        classes=facts.classes,
        params=lesson.params | params,
        metrics=metrics,
        libraries=cards.library_versions(*framework.libraries),
        seed=lesson.seed,
        details=details,
    )
