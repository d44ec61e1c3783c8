"""Owns the stage that writes the report: one page that needs nothing beside itself."""

from __future__ import annotations

import pathlib
from typing import Any

from stages import kit, models, values
from stages.report import sections

TEMPLATE = pathlib.Path(__file__).with_name("page.html.j2")


@kit.stage("report.html", libraries=("matplotlib", "jinja2"))
class Html(kit.Stage, frozen=True):
    """Write one self-contained page about a model: how good, against what, on which data.

    Every input is optional; a section is there when its data is.
    """

    title: str = "Report"
    subtitle: str = ""

    def run(  # noqa: PLR0917 - the parameters are ports
        self,
        metrics: values.Metrics | None,
        comparison: values.Metrics | None,
        training: values.Metrics | None,
        search: values.Report | None,
        predictions: values.Table | None,
        model: models.Model | None,
        profile: values.Report | None,
        quality: values.Report | None,
        features: values.Report | None,
        extra: values.Report | None,
        context: kit.Context,
    ) -> values.Text:
        """Write the page."""
        details = metrics.details if metrics else {}
        learned = training.details if training else {}
        searched = search.data if search and isinstance(search.data, dict) else {}
        reports = {
            "Data quality": quality,
            "Profile": profile,
            "Features": features,
            "Training": search,
            "More": extra,
        }
        laid = [sections.report(given, name) for name, given in reports.items()]
        page = {
            "title": self.title,
            "subtitle": self.subtitle,
            "task": details.get("task", ""),
            "target": details.get("target", ""),
            "baseline": details.get("baseline", {}).get("name", ""),
            "headline": sections.headline(metrics),
            "comparison": _comparison(comparison),
            "plots": sections.plots({**learned, **details}),
            "confusion": sections.confusion(details),
            "search": sections.search(details, learned, searched),
            "rows": _sample(predictions),
            "card": _card(model),
            "reports": [section for section in laid if section],
            "lineage": dict(context.lineage),
        }
        return values.Text(render(page))


def render(page: dict[str, Any]) -> str:
    """Fill the template; everything is escaped but the plots, which are ours."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)


def _comparison(given: values.Metrics | None) -> dict[str, Any] | None:
    if given is None:
        return None
    intervals = given.details.get("intervals", {})
    rows = [
        {
            "name": name,
            "value": sections.number(given.values.get(name, "")),
            "interval": _interval(intervals.get(name)),
        }
        for name in dict.fromkeys([*given.values, *intervals])
    ]
    return {"metric": given.details.get("metric", ""), "rows": rows}


def _interval(edges: Any) -> str:
    return " to ".join(sections.number(edge) for edge in edges) if edges else ""


def _sample(predictions: values.Table | None) -> dict[str, Any] | None:
    if predictions is None or not predictions.arrow.num_rows:
        return None
    first = predictions.arrow.slice(0, sections.MOST_ROWS).to_pylist()
    return sections.table("First predictions", first) | {"of": predictions.arrow.num_rows}


def _card(model: models.Model | None) -> dict[str, str] | None:
    if model is None:
        return None
    card = model.card
    said = {
        "Estimator": card.estimator,
        "Framework": card.framework,
        "Task": card.task,
        "Target": card.target,
        "Columns": ", ".join(f"{column.name} ({column.type})" for column in card.columns),
        "Parameters": ", ".join(f"{k}={sections.number(v)}" for k, v in card.params.items()),
        "Libraries": ", ".join(f"{name} {version}" for name, version in card.libraries.items()),
        "Seed": str(card.seed),
    }
    return {name: value for name, value in said.items() if value}
