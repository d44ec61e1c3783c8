"""Owns who may register under one key: whoever began it under the newest epoch, and one version.

A run's owner may freeze and wake after another has taken the run over; its attempt goes on then,
beside the new owner's, with the same key. MLflow compares nothing before it writes, so each attempt
first says that it is there, by the MLflow run that it makes anyway, and looks for newer ones right
before each change. What falls between such a look and its change is set right by the numbers that
MLflow gives to versions: of two with one key the lower stays.
"""

from __future__ import annotations

from typing import Any

from stages import kit

KEY_TAG = "mlpm.idempotency_key"
EPOCH_TAG = "mlpm.epoch"


class Superseded(kit.StageFault):
    """Another owner of the run registers this model now, or has done so."""

    code = "conflict"

    def __init__(self, epoch: int, newer: int) -> None:
        super().__init__(f"the run's owner of epoch {newer} registers it, not that of {epoch}")
        self.epoch = epoch
        self.newer = newer


class Claim:
    """One attempt at registering, told to the others by its MLflow run."""

    def __init__(self, registry: Any, experiment: str, context: kit.Context) -> None:
        self._registry = registry
        self._experiment = experiment
        self._key = context.idempotency_key
        self._epoch = context.epoch
        self.run_id = ""

    def make(self, name: str, tags: dict[str, str]) -> None:
        """Tell the others; from now on no older one may change anything."""
        told = tags | {KEY_TAG: self._key, EPOCH_TAG: str(self._epoch)}
        run = self._registry.create_run(self._experiment, tags=told, run_name=name)
        self.run_id = run.info.run_id

    def check(self) -> None:
        """Raise Superseded if another owner has claimed the same since."""
        from mlflow.entities import ViewType

        if not self._key:
            return
        ours = f"tags.`{KEY_TAG}` = '{self._key}'"
        found = self._registry.search_runs([self._experiment], ours, run_view_type=ViewType.ALL)
        newest = max((int(run.data.tags.get(EPOCH_TAG, 0)) for run in found), default=0)
        if newest > self._epoch:
            raise Superseded(self._epoch, newest)

    def first(self, name: str) -> Any:
        """Give the version that counts under this key, if there is one."""
        if not self._key:
            return None
        ours = f"name = '{name}' and tags.`{KEY_TAG}` = '{self._key}'"
        found = self._registry.search_model_versions(ours)
        return min(found, key=lambda version: int(version.version), default=None)

    def settle(self, name: str, made: Any) -> Any:
        """Give the version that counts, having taken back the one just made if it is another."""
        counts = self.first(name)
        if counts is None or int(counts.version) == int(made.version):
            return made
        self._registry.delete_model_version(name, made.version)
        return counts

    def withdraw(self) -> None:
        """Take the MLflow run back that nothing was logged to; others still find it."""
        self._registry.delete_run(self.run_id)
