"""Owns stages that make what the tests of troubled surroundings spoil."""

from __future__ import annotations

import pathlib

from stages import kit, models, values
from tests.service import sample_stages
from tests.stages import fitted


@kit.stage("trouble.model")
class Model(kit.Stage, frozen=True):
    """Give a model."""

    def run(self) -> models.Model:
        return fitted.wine_model()


@kit.stage("trouble.rows")
class Rows(kit.Stage, frozen=True):
    """Give a table of so many bytes, about, writing down that it was made."""

    trace: str
    size: int = 80_000

    def run(self, context: kit.Context) -> values.Table:
        import numpy as np
        import pyarrow as pa

        sample_stages.write(self.trace, "made")
        chance = np.random.default_rng(context.seed)
        return values.Table(pa.table({"x": chance.normal(size=self.size // 8)}))


@kit.stage("trouble.count")
class Count(kit.Stage, frozen=True):
    """Count rows, once a file is there."""

    until: str = ""

    def run(self, table: values.Table) -> values.Metrics:
        if self.until and not pathlib.Path(self.until).exists():
            raise kit.DataFault("not yet")
        return values.Metrics({"rows": float(table.rows() or 0)})
