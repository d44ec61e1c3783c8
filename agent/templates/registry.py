"""Owns the list of templates: which there are, their cards, and the way from name to pipeline."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from agent import parameters
from agent.templates import base, forecast, networks, profiles, tabular, triage
from protocol import codec, commands, pipelines, problems

TEMPLATES: Mapping[str, type[base.Template]] = {
    "tabular-classification": tabular.Classification,
    "tabular-regression": tabular.Regression,
    "time-series-forecast": forecast.Forecast,
    "finding-triage": triage.Triage,
    "image-classification": networks.Images,
    "text-classification": networks.Texts,
}


def names() -> list[str]:
    """Name the templates."""
    return list(TEMPLATES)


def cards() -> list[commands.TemplateCard]:
    """Describe the templates and their parameters."""
    return [
        commands.TemplateCard(
            name=name,
            summary=(inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " "),
            params=parameters.schema(cls),
        )
        for name, cls in TEMPLATES.items()
    ]


def source(name: str, params: dict[str, Any]) -> pipelines.Stage:
    """Give the stage that reads the template's data. Raises base.InvalidTemplate."""
    return _decode(name, params).source()


def design(name: str, params: dict[str, Any], profile: dict[str, Any]) -> pipelines.Pipeline:
    """Lay the stages for data with this profile. Raises base.InvalidTemplate."""
    return _decode(name, params).design(profiles.read(profile))


def _decode(name: str, params: dict[str, Any]) -> base.Template:
    cls = TEMPLATES.get(name)
    if cls is None:
        raise base.InvalidTemplate([_unknown(name)])
    found = codec.diagnose(params, cls, path="$.params")
    if found:
        raise base.InvalidTemplate(found)
    return msgspec.convert(params, cls)


def _unknown(name: str) -> problems.Problem:
    near = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TEMPLATES)}"
    return problems.Problem(
        code="unknown_template",
        message=f"there is no template {name!r}",
        path="$.template",
        hint=hint,
    )
