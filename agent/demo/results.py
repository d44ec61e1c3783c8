"""Owns what a demo tells in the end: the figures, the model, and the files on disk."""

from __future__ import annotations

import pathlib
import re
import shutil
from typing import Any

import msgspec

from agent.artifacts import store
from protocol import artifacts, commands

_PLOT = re.compile(r"<svg role=.*?</svg>", re.DOTALL)
_INK = "#444"


class Answer(msgspec.Struct, frozen=True):
    """What a deployed model said of a row that it was not trained on."""

    url: str
    version: str
    said: Any
    actual: Any


class Result(msgspec.Struct, frozen=True):
    """What came of one request."""

    pipeline: str
    run_id: str
    state: str
    duration_s: float
    stages: int
    cached: int
    metric: str
    value: float | None
    interval: list[float] | None
    baseline: str
    baseline_value: float | None
    better_by: list[float] | None
    """Interval of the difference to the baseline, in the direction of better."""
    model: str
    registered: str | None
    """The version that this run registered; None where it was no better than the champion."""
    champion: str | None
    report: str
    plots: list[str]
    answer: Answer | None = None


def gather(
    status: commands.RunStatus, kept: store.Store, metric: str, folder: pathlib.Path
) -> Result:
    """Read a finished run's artifacts and lay its report and plots into the folder."""
    stages = {stage.id: stage for stage in status.stages}
    score = _data(kept, stages["score"], "metrics")
    compare = _data(kept, stages["compare"], "metrics")
    registered = _registered(kept, stages["keep"])
    report, plots = _files(kept, stages["page"], folder / status.pipeline)
    intervals = score["details"].get("intervals", {})
    return Result(
        pipeline=status.pipeline,
        run_id=status.run_id,
        state=status.state,
        duration_s=_duration(status),
        stages=len(stages),
        cached=sum(stage.cached for stage in status.stages),
        metric=metric,
        value=score["values"].get(metric),
        interval=intervals.get(metric),
        baseline=score["details"]["baseline"]["name"],
        baseline_value=score["values"].get(f"baseline_{metric}"),
        better_by=compare["details"]["intervals"].get("better_than_baseline_by"),
        model=status.pipeline,
        registered=registered,
        champion=registered or compare["details"].get("champion"),
        report=str(report),
        plots=[str(plot) for plot in plots],
    )


def _data(kept: store.Store, stage: commands.StageStatus, port: str) -> Any:
    ref = stage.outputs[port]
    assert isinstance(ref, artifacts.ArtifactRef)
    return msgspec.json.decode(kept.path(ref).read_bytes())


def _registered(kept: store.Store, stage: commands.StageStatus) -> str | None:
    if stage.state != "succeeded":
        return None
    return str(_data(kept, stage, "report")["version"])


def _files(
    kept: store.Store, stage: commands.StageStatus, folder: pathlib.Path
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    ref = stage.outputs["text"]
    assert isinstance(ref, artifacts.ArtifactRef)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    shutil.copyfile(kept.path(ref), page)
    plots = []
    for number, svg in enumerate(_PLOT.findall(page.read_text(encoding="utf-8")), start=1):
        plot = folder / f"plot-{number}.svg"
        xmlns = f'<svg xmlns="http://www.w3.org/2000/svg" color="{_INK}"'
        plot.write_text(svg.replace("<svg", xmlns, 1), encoding="utf-8")
        plots.append(plot)
    return page, plots


def _duration(status: commands.RunStatus) -> float:
    if status.ended_at is None:
        return 0.0
    return (status.ended_at - status.accepted_at).total_seconds()
