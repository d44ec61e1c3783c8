"""Owns the stage `register.model`: a model, its lineage and its metrics into the registry."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

from stages import kit, models, values
from stages.evaluate import scores
from stages.register import champions

KEY_TAG = "mlpm.idempotency_key"
SAFE = "skops"
"""MLflow's serialization format; cloudpickle and pickle are never used."""


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
        registry = champions.client(context.services.tracking_uri)
        measured = dict(metrics.values) if metrics else dict(model.card.metrics)
        version = self._existing(registry, context)
        repeated = version is not None
        if version is None:
            version = self._register(registry, model, measured, context)
        aliases = self._alias(registry, version, model, measured)
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

    def _existing(self, registry: Any, context: kit.Context) -> Any:
        """Find the version that an earlier attempt of this stage has made."""
        if not context.idempotency_key:
            return None
        found = registry.search_model_versions(f"name = '{self.name}'")
        ours = (v for v in found if v.tags.get(KEY_TAG) == context.idempotency_key)
        return next(ours, None)

    def _register(
        self, registry: Any, model: models.Model, measured: dict[str, float], context: kit.Context
    ) -> Any:
        lineage = {f"lineage.{key}": str(value) for key, value in context.lineage.items()}
        tags = self.tags | lineage | {KEY_TAG: context.idempotency_key}
        run_id = registry.create_run(
            _experiment(registry, self.experiment, context), tags=tags, run_name=self.name
        ).info.run_id
        try:
            _log(registry, run_id, model, measured, context)
            return self._version(registry, run_id, tags)
        except BaseException:
            registry.set_terminated(run_id, "FAILED")
            raise

    def _version(self, registry: Any, run_id: str, tags: dict[str, str]) -> Any:
        _ensure_registered(registry, self.name)
        source = f"{registry.get_run(run_id).info.artifact_uri}/model"
        version = registry.create_model_version(self.name, source, run_id, tags=tags)
        registry.set_terminated(run_id)
        return version

    def _alias(
        self, registry: Any, version: Any, model: models.Model, measured: dict[str, float]
    ) -> list[str]:
        number = str(version.version)
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
    _save_flavour(model, flavour)
    registry.log_artifacts(run_id, str(flavour), "model")


def _save_flavour(model: models.Model, path: pathlib.Path) -> None:
    """Write the folder that MLflow's own tools read: skops, with a signature."""
    import mlflow.sklearn
    import skops.io

    unknown = skops.io.get_untrusted_types(data=model.payload)
    requirements = [f"{name}=={version}" for name, version in model.card.libraries.items()]
    mlflow.sklearn.save_model(
        model.estimator(),
        path,
        serialization_format=SAFE,
        skops_trusted_types=unknown,
        signature=_signature(model),
        pip_requirements=requirements or ["scikit-learn"],
    )


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
    return {"float": "float", "double": "double", "bool": "boolean"}.get(arrow, "string")
