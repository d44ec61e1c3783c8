"""Owns what the commands print: JSON for programs, text for people, problems for both."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import msgspec

from protocol import problems

FAILED, USAGE, UNAVAILABLE = 1, 2, 3
NO_AGENT = "start one with: mlpm up"
WIDTH = 200
"""Of what is not written to a terminal."""
STATES = {
    "succeeded": "green",
    "running": "cyan",
    "retrying": "yellow",
    "waiting": "yellow",
    "cancelling": "yellow",
    "failed": "red",
    "cancelled": "magenta",
    "skipped": "dim",
}


class Stop(Exception):
    """A command ends without having done what it was asked; the problem says why."""

    def __init__(self, problem: problems.Problem, exit_code: int | None = None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        unavailable = problem.code == "unavailable"
        self.exit_code = exit_code or (UNAVAILABLE if unavailable else FAILED)


def stop(code: problems.Code, message: str, *, hint: str | None = None, **more: Any) -> NoReturn:
    """End the command with a problem."""
    raise Stop(problems.Problem(code=code, message=message, hint=hint, **more))


def write_json(value: Any, *, pretty: bool = True) -> None:
    """Write one JSON document (one line where not pretty) to standard output."""
    data = msgspec.json.encode(value)
    text = msgspec.json.format(data, indent=2) if pretty else data
    sys.stdout.write(text.decode() + "\n")
    sys.stdout.flush()


def write(text: str = "") -> None:
    """Write a line, with rich's markup, to standard output."""
    rich_console().print(_lines(text, plain), highlight=False, soft_wrap=True)


def rich_console() -> Any:
    """Make a console for standard output as it is now."""
    from rich import console

    width = None if sys.stdout.isatty() else WIDTH
    return console.Console(file=sys.stdout, width=width)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table without lines around it."""
    from rich import box
    from rich import table as tables

    made = tables.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    *others, last = headings
    for heading in others:
        made.add_column(heading, no_wrap=True)
    made.add_column(last, overflow="fold")
    for row in rows:
        made.add_row(*map(plain, row))
    rich_console().print(made)


def state(name: str) -> str:
    """Colour a state's name."""
    style = STATES.get(name)
    return f"[{style}]{name}[/]" if style else escape(name)


def plain(text: str) -> str:
    """Show foreign text on one line, and do nothing that it asks of the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape(text: str) -> str:
    """Show foreign text on one line, and read nothing in it as markup or as for the terminal."""
    from rich import markup

    return markup.escape(plain(text))


def escape_lines(text: str) -> str:
    """Show foreign text of several lines, as `escape` does for one."""
    return _lines(text, escape)


def _lines(text: str, each: Callable[[str], str]) -> str:
    return "\n".join(map(each, text.split("\n")))


def moment(at: dt.datetime | None) -> str:
    """Show a time in the local zone."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else ""


def seconds(value: float | None) -> str:
    """Show a duration."""
    if value is None:
        return ""
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60)} s"  # noqa: PLR2004 - a minute


def metrics(values: dict[str, float], limit: int = 3) -> str:
    """Show the first few metrics on one line."""
    return "  ".join(f"{name}={value:.4g}" for name, value in list(values.items())[:limit])


def report(problem: problems.Problem, *, as_json: bool) -> None:
    """Tell a problem and everything with it: JSON to standard output, text to standard error."""
    if as_json:
        write_json({"problem": problem})
        return
    from rich import console

    screen = console.Console(file=sys.stderr)
    for each in problem.problems or [problem]:
        where = f" at {each.path}" if each.path else ""
        line = f"[red]{escape(each.code)}[/]{escape(where)}: {escape(each.message)}"
        screen.print(line, highlight=False, soft_wrap=True)
        if each.hint:
            screen.print(f"  hint: {escape(each.hint)}", highlight=False, soft_wrap=True)
        if each.traceback:
            screen.print(escape_lines(each.traceback), highlight=False, soft_wrap=True)
