"""Owns the stage `register.model`: a model, its lineage and its metrics into the registry."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

from stages import kit, models, values
from stages.evaluate import scores
from stages.register import champions, claims

ALIASES_TAG = "mlpm.aliases"
"""On a version: which aliases it got when it was registered. They are given once."""


@kit.stage("register.model", effects=True, libraries=("mlflow",))
class RegisterModel(kit.Stage, frozen=True):
    """Register a model in MLflow with its parameters, metrics, signature and lineage."""

    name: str
    """Of the registered model."""
    promote: Literal["never", "always", "if_first", "if_better"] = "if_first"
    """When the version becomes the champion; it is the challenger in any case."""
    metric: str | None = None
    """What `if_better` compares; by the task where it is not given."""
    tags: dict[str, str] = {}
    experiment: str = "mlpm"

    def run(
        self, model: models.Model, metrics: values.Metrics | None, context: kit.Context
    ) -> values.Report:
        """Log and register once, however often it is attempted."""
        if not context.services.tracking_uri:
            msg = "no tracking URI is configured"
            raise kit.NotAllowed(msg)
        with champions.reached():
            return self._registered(model, metrics, context)

    def _registered(
        self, model: models.Model, metrics: values.Metrics | None, context: kit.Context
    ) -> values.Report:
        registry = champions.client(context.services.tracking_uri)
        measured = dict(metrics.values) if metrics else dict(model.card.metrics)
        claim = claims.Claim(registry, _experiment(registry, self.experiment, context), context)
        claim.make(self.name, self._tags(context))
        version = claim.first(self.name)
        repeated = version is not None
        if version is None:
            version = self._register(registry, claim, model, measured, context)
        else:
            claim.withdraw()
        aliases = self._aliases(registry, claim, version, model, measured)
        number = str(version.version)
        context.note("registered", model=self.name, version=number, aliases=aliases)
        return values.Report(
            {
                "title": f"{self.name} version {number}",
                "summary": f"registered as {', '.join(aliases)}",
                "model": self.name,
                "version": number,
                "aliases": aliases,
                "run_id": version.run_id,
                "metrics": measured,
                "repeated": repeated,
            }
        )

    def _tags(self, context: kit.Context) -> dict[str, str]:
        lineage = {f"lineage.{key}": str(value) for key, value in context.lineage.items()}
        return self.tags | lineage

    def _register(
        self,
        registry: Any,
        claim: claims.Claim,
        model: models.Model,
        measured: dict[str, float],
        context: kit.Context,
    ) -> Any:
        try:
            _log(registry, claim.run_id, model, measured, context)
            return self._version(registry, claim, self._tags(context), context)
        except BaseException:
            registry.set_terminated(claim.run_id, "FAILED")
            raise

    def _version(
        self, registry: Any, claim: claims.Claim, tags: dict[str, str], context: kit.Context
    ) -> Any:
        _ensure_registered(registry, self.name)
        source = f"{registry.get_run(claim.run_id).info.artifact_uri}/model"
        told = tags | {claims.KEY_TAG: context.idempotency_key}
        claim.check()
        made = registry.create_model_version(self.name, source, claim.run_id, tags=told)
        counts = claim.settle(self.name, made)
        registry.set_terminated(claim.run_id, "FINISHED" if counts is made else "KILLED")
        return counts

    def _aliases(
        self,
        registry: Any,
        claim: claims.Claim,
        version: Any,
        model: models.Model,
        measured: dict[str, float],
    ) -> list[str]:
        """Give a version its aliases, once: later they may have moved on to others."""
        number = str(version.version)
        given = registry.get_model_version(self.name, number).tags.get(ALIASES_TAG)
        if given is not None:
            return str(given).split(",")
        claim.check()
        aliases = self._alias(registry, number, model, measured)
        registry.set_model_version_tag(self.name, number, ALIASES_TAG, ",".join(aliases))
        return aliases

    def _alias(
        self, registry: Any, number: str, model: models.Model, measured: dict[str, float]
    ) -> list[str]:
        registry.set_registered_model_alias(self.name, champions.CHALLENGER, number)
        aliases = [champions.CHALLENGER]
        reigning = champions.aliased(registry, self.name, champions.CHAMPION)
        mine = reigning is not None and str(reigning.version) == number
        if mine or self._wins(registry, reigning, model, measured):
            registry.set_registered_model_alias(self.name, champions.CHAMPION, number)
            aliases.append(champions.CHAMPION)
        return aliases

    def _wins(
        self, registry: Any, reigning: Any, model: models.Model, measured: dict[str, float]
    ) -> bool:
        if self.promote in {"always", "never"}:
            return self.promote == "always"
        if reigning is None:
            return True
        metric = self.metric or scores.DEFAULTS[model.card.task]
        before = registry.get_run(reigning.run_id).data.metrics.get(metric)
        if self.promote == "if_first" or before is None or metric not in measured:
            return False
        return scores.oriented(metric, measured[metric]) > scores.oriented(metric, before)


def _experiment(registry: Any, name: str, context: kit.Context) -> str:
    """Find or make the experiment; with SQLite its artifacts lie beside the database."""
    from mlflow import exceptions

    found = registry.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    uri, location = context.services.tracking_uri, None
    if uri.startswith("sqlite:///"):
        folder = pathlib.Path(uri.removeprefix("sqlite:///")).resolve().parent
        location = (folder / "mlflow-artifacts").as_uri()
    try:
        return str(registry.create_experiment(name, artifact_location=location))
    except exceptions.MlflowException:
        return str(registry.get_experiment_by_name(name).experiment_id)


def _ensure_registered(registry: Any, name: str) -> None:
    from mlflow import exceptions

    try:
        registry.create_registered_model(name)
    except exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log(
    registry: Any,
    run_id: str,
    model: models.Model,
    measured: dict[str, float],
    context: kit.Context,
) -> None:
    for name, value in model.card.params.items():
        registry.log_param(run_id, name, value)
    for name, value in measured.items():
        registry.log_metric(run_id, name, value)
    archive = context.workdir / "model.zip"
    model.save(archive)
    registry.log_artifact(run_id, str(archive), "archive")
    flavour = context.workdir / "mlflow-model"
    model.export(flavour, _signature(model))
    registry.log_artifacts(run_id, str(flavour), "model")


def _signature(model: models.Model) -> Any:
    from mlflow import models as mm
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec(_kind(column.type), column.name) for column in model.card.columns])
    label = model.card.classes[0] if model.card.classes else 0.0
    kinds = {bool: "boolean", int: "long", str: "string"}
    output = Schema([ColSpec(kinds.get(type(label), "double"), model.card.target)])
    return mm.ModelSignature(inputs=inputs, outputs=output)


def _kind(arrow: str) -> str:
    """Name an Arrow type as MLflow does."""
    if arrow.startswith(("timestamp", "date")):
        return "datetime"
    if arrow.startswith(("int", "uint")):
        return "long"
    kinds = {"float": "float", "double": "double", "bool": "boolean", "binary": "binary"}
    return kinds.get(arrow, "string")
