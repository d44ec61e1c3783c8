"""Owns how models are kept in and read from the MLflow registry: versions, aliases, archives.

The archive is our own model file; MLflow's loaders, which may unpickle, are never used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from stages import kit, models

ARCHIVE = "archive/model.zip"
CHAMPION = "champion"
CHALLENGER = "challenger"
SQLITE = "sqlite:///"
_TRIES = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
"""MLflow's own take minutes; trying again is the run's business."""


class Registered(NamedTuple):
    """A version of a registered model, and the model itself."""

    name: str
    version: str
    model: models.Model


def client(tracking_uri: str) -> Any:
    """Connect to the registry; a SQLite one is made at the first use."""
    os.environ.setdefault(*_TRIES)
    import mlflow

    with _alone(tracking_uri):
        registry = mlflow.MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        registry.search_registered_models(max_results=1)
    return registry


@contextlib.contextmanager
def _alone(tracking_uri: str) -> Iterator[None]:
    """Hold off other workers: two that make the tables at once break each other."""
    if not tracking_uri.startswith(SQLITE):
        yield
        return
    path = pathlib.Path(tracking_uri.removeprefix(SQLITE))
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Raise Transient where the registry cannot be reached: it may be back a moment later."""
    from mlflow import exceptions

    try:
        yield
    except exceptions.MlflowException as error:
        if any(map(_is_unreached, _causes(error))):
            message = f"the registry cannot be reached: {error}"
            hint = "start the MLflow server, or mend tracking.uri; then resume the run"
            raise kit.Transient(message, hint=hint) from error
        raise


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_unreached(cause: BaseException) -> bool:
    from requests import exceptions as http
    from sqlalchemy import exc

    gone = (http.ConnectionError, http.Timeout, http.RetryError, exc.OperationalError)
    return isinstance(cause, (ConnectionError, TimeoutError, *gone))


def aliased(registry: Any, name: str, alias: str) -> Any:
    """Give the version that an alias points to; None without one."""
    from mlflow import exceptions

    try:
        return registry.get_model_version_by_alias(name, alias)
    except exceptions.MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def champion(tracking_uri: str, name: str) -> Registered | None:
    """Load the champion of a registered model; None where there is none."""
    with reached():
        return _champion(client(tracking_uri), name)


def _champion(registry: Any, name: str) -> Registered | None:
    version = aliased(registry, name, CHAMPION)
    if version is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = registry.download_artifacts(version.run_id, ARCHIVE, folder)
        return Registered(name, str(version.version), models.Model.load(pathlib.Path(path)))
