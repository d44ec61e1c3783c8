"""Owns the plots of a report: inline SVG that takes its text colour from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import markupsafe

_INK = "#010203"
"""Stands for the page's text colour, which differs between light and dark."""
ACTUAL = "#8a8f98"
PREDICTED = "#2f7de1"
BASELINE = "#e08a1e"
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
POINTS = 2000
"""Drawn of a series at most; the rest could not be told apart."""
MOST_LABELS = 20
_TICKS = 6
_SHORT = 16
_NAMED_POINTS = 60


def draw(name: str, title: str, paint: Callable[[Any], None], size: Any = (7.2, 3.4)) -> Any:
    """Paint one plot; `title` is also what a screen reader says.

    `name` makes the ids inside unique on the page, and equal data gives equal bytes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = _STYLE | {"svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> Any:
    """Strip what belongs to a file, name it for a screen reader and let it shrink with the page."""
    svg = svg[svg.index("<svg") :]
    start = svg.index(">") + 1
    box = svg[:start].split('viewBox="')[1].split('"')[0]
    label = markupsafe.escape(title)
    head = f'<svg role="img" aria-label="{label}" viewBox="{box}"><title>{label}</title>'
    body = svg[start:]
    if "<metadata>" in body:
        body = body[: body.index("<metadata>")] + body[body.index("</metadata>") + 11 :]
    body = re.sub(r'(<[^<>]*? id=")', rf"\1{name}-", body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
    # Everything from the data in here was escaped by matplotlib's XML writer.
    return markupsafe.Markup(head + body.replace(_INK, "currentColor"))  # noqa: S704


def series(data: dict[str, list[Any]]) -> Any:
    """Draw actual, predicted and baseline over time."""
    step = max(1, -(-len(data["actual"]) // POINTS))
    times, actual, predicted = (data[key][::step] for key in ("time", "actual", "predicted"))

    def paint(axes: Any) -> None:
        places = range(len(actual))
        if baseline := data.get("baseline"):
            axes.plot(places, baseline[::step], color=BASELINE, lw=1, ls=":", label="baseline")
        mark = "." if len(actual) <= _NAMED_POINTS else None
        axes.plot(places, actual, color=ACTUAL, lw=1.8, marker=mark, label="actual")
        axes.plot(places, predicted, color=PREDICTED, lw=1.8, marker=mark, label="predicted")
        ticks = list(places)[:: max(1, len(actual) // _TICKS)]
        axes.set_xticks(ticks, [str(times[tick]).replace(" 00:00:00", "")[:16] for tick in ticks])
        axes.tick_params(axis="x", labelsize=9)
        axes.legend(loc="best", ncols=3)

    return draw("series", "Actual and predicted values, in order", paint)


def scatter(actual: list[float], predicted: list[float]) -> Any:
    """Draw predicted against actual; on the line they agree."""
    step = max(1, -(-len(actual) // POINTS))

    def paint(axes: Any) -> None:
        low, high = min(*actual, *predicted), max(*actual, *predicted)
        axes.plot([low, high], [low, high], color=ACTUAL, lw=1)
        axes.scatter(actual[::step], predicted[::step], s=14, color=PREDICTED, alpha=0.6)
        axes.set_xlabel("actual")
        axes.set_ylabel("predicted")

    return draw("scatter", "Predicted against actual values", paint, (4.6, 3.6))


def residuals(errors: list[float]) -> Any:
    """Draw how the errors are spread."""

    def paint(axes: Any) -> None:
        axes.hist(errors, bins=min(40, max(5, len(errors) // 4)), color=PREDICTED, alpha=0.8)
        axes.axvline(0, color=ACTUAL, lw=1)
        axes.set_xlabel("predicted minus actual")
        axes.set_ylabel("rows")

    return draw("residuals", "How the errors are spread", paint, (4.6, 3.6))


def curve(name: str, title: str, x: Any, y: Any, labels: tuple[str, str]) -> Any:
    """Draw a curve in the unit square."""

    def paint(axes: Any) -> None:
        axes.plot(x, y, color=PREDICTED, lw=2)
        if name == "roc":
            axes.plot([0, 1], [0, 1], color=ACTUAL, lw=1, ls=":")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=labels[0], ylabel=labels[1])

    return draw(name, title, paint, (4.6, 3.6))


def bars(name: str, title: str, labels: list[str], sizes: list[float], spread: list[float]) -> Any:
    """Draw horizontal bars, the first on top."""

    def paint(axes: Any) -> None:
        shown = [label if len(label) <= 30 else label[:29] + "…" for label in labels]  # noqa: PLR2004
        axes.barh(range(len(sizes)), sizes, xerr=spread, color=PREDICTED, ecolor=ACTUAL)
        axes.set_yticks(range(len(sizes)), shown)
        axes.invert_yaxis()

    return draw(name, title, paint, (7.2, 0.9 + 0.32 * len(sizes)))


def pairs(name: str, title: str, labels: list[str], shares: tuple[list[float], list[float]]) -> Any:
    """Draw the shares of two samples side by side, bin by bin."""

    def paint(axes: Any) -> None:
        shown = list(range(len(labels)))[:MOST_LABELS]
        for side, (values, colour) in enumerate(zip(shares, (ACTUAL, PREDICTED), strict=True)):
            places = [place + 0.4 * side - 0.2 for place in shown]
            label = ("before", "now")[side]
            axes.bar(places, [values[n] for n in shown], 0.4, color=colour, label=label)
        axes.set_xticks(shown, [labels[n][:_SHORT] for n in shown], rotation=45, ha="right")
        axes.legend()

    return draw(name, title, paint, (4.6, 3.6))


def trials(numbers: list[int], scores: list[float]) -> Any:
    """Draw the score of each trial of a search."""

    def paint(axes: Any) -> None:
        axes.plot(numbers, scores, color=PREDICTED, lw=1, marker="o", ms=4)
        axes.set_xlabel("trial")
        axes.set_ylabel("score")
        axes.locator_params(axis="x", integer=True)

    return draw("trials", "Score of each trial", paint, (7.2, 2.6))
