"""Owns the command that shows who asked for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import console, session
from protocol import subjects, trail

if TYPE_CHECKING:
    from protocol import client


def audits(
    ctx: typer.Context,
    action: Annotated[str, typer.Option(help="Only of this action, as `cancel`.")] = "*",
    last: Annotated[
        int, typer.Option(min=0, help="Look at so many of the newest records; 0 is all.")
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on live.")] = False,
) -> None:
    """Show the audit log, oldest first: who asked for what, and how it was answered."""
    here: session.Session = ctx.obj

    async def talk(agent: client.Client) -> None:
        async for one in agent.audits(action=action, newest=last, follow=follow):
            if here.json:
                console.write_json(one, pretty=False)
            else:
                print(line(one.record), flush=True)  # noqa: T201 - a line of output

    try:
        here.ask(talk)
    except subjects.UnsafeToken as error:
        raise typer.BadParameter(str(error), param_hint="--action") from error


def line(record: trail.AuditRecord) -> str:
    """Write a record as one line."""
    about = " ".join(part for part in (record.run_id, record.stage) if part)
    claimed = f" (says {record.claimed!r})" if record.claimed else ""
    when = console.moment(record.at)
    told = f"{when}  {record.action:<8} {record.outcome:<15} {about}  {record.signed_by}{claimed}"
    return console.plain(told)
