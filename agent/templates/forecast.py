"""Owns the template for forecasts: one row is one moment, the past predicts the target."""

from __future__ import annotations

from agent.templates import base, profiles
from protocol import pipelines

ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)
CYCLES = ["dayofyear"]
PARTS = ["elapsed_days"]


class Forecast(base.Template, frozen=True, kw_only=True):
    """Forecast a series: lags and calendar, a grid search in time order, against seasonal naive."""

    uri: base.Uris
    """The table; several URIs are a primary and its backups."""
    time: str
    """The column of times."""
    target: str
    name: base.Name = "forecast"
    """Of the pipeline and the registered model."""
    every: str | None = None
    """Bring the series to this pandas frequency first, as `D` or `W`."""
    horizon: base.Positive = 1
    """Rows ahead."""
    season: base.Positive = 1
    """Rows in a season; the baseline is the value one season earlier."""
    lags: list[base.Positive] = []
    """By horizon and season where none are given; none may be under the horizon."""
    windows: list[base.Positive] = []
    test_fraction: base.Fraction = 0.2
    metric: str = "mae"
    folds: base.Positive = 5
    model: str = "Ridge"
    """An estimator for regression. Linear by default: trees cannot follow a trend upwards."""
    alphas: tuple[float, ...] = ALPHAS
    """Searched where the model is Ridge."""

    def source(self) -> pipelines.Stage:
        """Read the series."""
        return base.stage("load", "ingest.table", uri=self.uri)

    def design(self, profile: profiles.Profile) -> pipelines.Pipeline:
        """Make it regular, fill gaps from the past, add lags and calendar, split by time, train."""
        base.required(profile, {"time": self.time, "target": self.target})
        stages = [
            *base.chained([self.source(), *self._regular(profile), *self._features()]),
            base.stage("profile", "quality.profile", inputs={"table": "split.train"}),
            base.stage(
                "plan",
                "features.auto",
                target=self.target,
                task="forecast",
                exclude=[self.time],
                inputs={"train": "split.train"},
            ),
            self._training(),
            *base.ending(
                self.name,
                f"{self.name}: {self.target}, {self.horizon} ahead",
                self.metric,
                season=self._season,
                time=self.time,
                explained="plan.report",
            ),
        ]
        text = f"forecast of {self.target}, {self.horizon} rows ahead"
        return pipelines.Pipeline(name=self.name, stages=stages, description=text)

    @property
    def _season(self) -> int:
        """Give a season that the horizon does not reach into: the baseline may not look ahead."""
        return -(-self.horizon // self.season) * self.season

    def _regular(self, profile: profiles.Profile) -> list[pipelines.Stage]:
        """Keep time and target alone: other columns of a row are not known ahead of it."""
        stages = []
        if set(profile.names) != {self.time, self.target}:
            kept = [self.time, self.target]
            stages.append(base.stage("series", "prepare.select", columns=kept))
        if self.every:
            how = {self.target: "mean"}
            stages.append(
                base.stage(
                    "regular", "prepare.resample", time=self.time, every=self.every, aggregate=how
                )
            )
        if self.every or profile.column(self.target).nulls:
            gaps = [self.target]
            stages.append(
                base.stage(
                    "filled", "prepare.impute", method="forward", columns=gaps, time=self.time
                )
            )
        return stages

    def _features(self) -> list[pipelines.Stage]:
        return [
            base.stage(
                "lags",
                "features.lags",
                columns=[self.target],
                lags=self.lags or self._lags(),
                windows=self.windows or sorted({self.horizon, self._season} - {1}),
                statistics=["mean"],
                horizon=self.horizon,
                time=self.time,
            ),
            base.stage(
                "calendar", "features.dates", column=self.time, parts=PARTS, cyclical=CYCLES
            ),
            base.stage(
                "split",
                "prepare.split",
                target=self.target,
                strategy="time",
                time=self.time,
                gap=self.horizon - 1,
                test_fraction=self.test_fraction,
            ),
        ]

    def _lags(self) -> list[int]:
        """Take the newest known values, and those around one season ago."""
        newest = range(self.horizon, self.horizon + 3)
        around = range(self._season, self._season + 2) if self.season > 1 else range(0)
        return sorted({*newest, *around})

    def _training(self) -> pipelines.Stage:
        search = {"strategy": "grid", "space": {"alpha": list(self.alphas)}}
        return base.stage(
            "train",
            "train.model",
            model=self.model,
            target=self.target,
            task="forecast",
            metric=self.metric,
            search=search if self.model == "Ridge" else None,
            validation={"folds": max(2, self.folds), "scheme": "time"},
            inputs={"train": "split.train", "features": "plan.features"},
        )
