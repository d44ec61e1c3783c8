"""Owns a stage of a kind that puts a model to work, for the tests of who may ask for it."""

from __future__ import annotations

from stages import kit, values


@kit.stage("deploy.pretend", effects=True)
class Pretend(kit.Stage, frozen=True):
    """Deploy nothing, or fail at it."""

    fail: bool = False

    def run(self, report: values.Report | None, context: kit.Context) -> values.Report:  # noqa: ARG002 - it only gives the order
        if self.fail:
            raise ValueError("as asked")
        return values.Report({"deployed": "nothing"})
