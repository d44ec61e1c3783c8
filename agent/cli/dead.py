"""Owns the commands that look after dead letters: list, show, replay, drop."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agent.cli import console, session

if TYPE_CHECKING:
    from agent.bus import letters
    from protocol import client

T = TypeVar("T")
Numbers = Annotated[list[int], typer.Argument(metavar="NUMBER...", min=1, help="Of the letters.")]
Since = Annotated[str, typer.Option(help="Only since then: `90m`, `2h`, `3d`, or a date and time.")]
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

app = typer.Typer(
    name="dead",
    help="Look after dead letters: messages that could not be used, with the reason.",
    no_args_is_help=True,
)


@app.command("list")
def list_letters(
    ctx: typer.Context,
    since: Since = "",
    code: Annotated[str | None, typer.Option(help="Only with this problem's code.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only that came on this subject.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 100,
) -> None:
    """List the newest dead letters, oldest first."""
    from agent.bus import letters

    here: session.Session = ctx.obj
    wanted = letters.Wanted(_moment(since) if since else None, code, subject)
    found = _do(here, lambda box: box.newest(wanted, limit))
    if here.json:
        console.write_json(found)
        return
    console.table(
        ("number", "kept", "came on", "bytes", "code", "reason"),
        (
            (
                str(each.sequence),
                console.moment(each.at),
                console.escape(each.subject),
                f"{each.size_bytes}" if each.whole else f"{each.size_bytes} (cut)",
                console.escape(each.code),
                console.escape(f"{each.path}: {each.reason}" if each.path else each.reason),
            )
            for each in found
        ),
    )


@app.command()
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="Of the letter.")],
) -> None:
    """Show a dead letter: why it is one, its headers, and how its body begins."""
    here: session.Session = ctx.obj
    found = _do(here, lambda box: box.open(number))
    if here.json:
        console.write_json(found)
        return
    console.write(f"[bold]{found.sequence}[/] kept {console.moment(found.at)}")
    for name, value in sorted(found.headers.items()):
        console.write(f"[dim]{console.escape(name)}:[/] {console.escape(value)}")
    cut = "" if found.whole else ", not kept as a whole"
    console.write(f"{found.size_bytes} bytes{cut}:")
    console.write(console.escape_lines(found.body))


@app.command()
def replay(ctx: typer.Context, numbers: Numbers) -> None:
    """Send dead letters again to where they came on, and drop them; the first refusal ends it."""
    here: session.Session = ctx.obj

    async def each(box: letters.Letters) -> None:
        for number in numbers:
            subject = await box.replay(number)
            _tell(here, {"replayed": number, "subject": subject}, f"sent again on {subject}")

    _do(here, each)


@app.command()
def drop(ctx: typer.Context, numbers: Numbers) -> None:
    """Delete dead letters for good; the first that is not there ends it."""
    here: session.Session = ctx.obj

    async def each(box: letters.Letters) -> None:
        for number in numbers:
            await box.drop(number)
            _tell(here, {"dropped": number}, f"dropped {number}")

    _do(here, each)


def _tell(here: session.Session, told: dict[str, Any], text: str) -> None:
    if here.json:
        console.write_json(told, pretty=False)
    else:
        console.write(console.escape(text))


def _do(here: session.Session, work: Callable[[letters.Letters], Awaitable[T]]) -> T:
    """Do something with the dead letters; what cannot be done ends the command."""
    from agent.bus import letters

    async def talk(agent: client.Client) -> T:
        return await work(letters.Letters(agent.connection, agent.names))

    try:
        return here.ask(talk)
    except letters.NoSuchLetter as error:
        console.stop("not_found", str(error), hint="mlpm dead list shows those that are there")
    except letters.NoReturn as error:
        console.stop("not_allowed", str(error))
    except letters.NotWhole as error:
        console.stop("conflict", str(error), hint="have it sent anew by whoever sent it")


def _moment(text: str) -> dt.datetime:
    """Read a time, or how long ago it was."""
    ago = re.fullmatch(r"(\d{1,5})([smhd])", text)
    if ago:
        return dt.datetime.now(dt.UTC) - dt.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        return dt.datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise typer.BadParameter(f"no time: {text!r}", param_hint="--since") from None
