"""Owns the demo's time series: weekly carbon dioxide at Mauna Loa, as statsmodels ships it."""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import pathlib

WEEK = dt.timedelta(days=7)


class SeriesMissing(Exception):
    """The package that ships the series is not installed."""

    def __init__(self) -> None:
        super().__init__("statsmodels is not installed; install the extra 'demo'")


def write(folder: pathlib.Path) -> pathlib.Path:
    """Write `co2.csv`: one row a week from 1958 on, empty where no measurement was made."""
    target = folder / "co2.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink)
        writer.writerow(["week", "co2_ppm"])
        writer.writerows((day.isoformat(), value) for day, value in weeks())
    return target


def weeks() -> list[tuple[dt.date, str]]:
    """List every week from the first to the last, with its value or an empty text."""
    with _source().open(newline="", encoding="utf-8") as source:
        measured = {
            dt.datetime.strptime(row["date"], "%Y%m%d").date(): row["co2"]  # noqa: DTZ007 - a date
            for row in csv.DictReader(source)
        }
    first, last = min(measured), max(measured)
    days = (first + WEEK * number for number in range((last - first) // WEEK + 1))
    return [(day, measured.get(day, "")) for day in days]


def _source() -> pathlib.Path:
    spec = importlib.util.find_spec("statsmodels")
    if spec is None or spec.origin is None:
        raise SeriesMissing
    return pathlib.Path(spec.origin).parent / "datasets" / "co2" / "co2.csv"
