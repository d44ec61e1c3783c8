"""Owns watching: a live board of one run, and the stream of events of one or all."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import board, console, session
from protocol import events as facts
from protocol import problems

if TYPE_CHECKING:
    from protocol import client

REFRESH_S = 0.25
QUIET_S = 0.8
"""A replay is over when nothing more has come for this long."""


def events(  # noqa: PLR0917 - typer makes options of them
    ctx: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="One run; all without.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Only of this stage, or `run`.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only of this type, as `failed` or `stage.failed`.")
    ] = None,
    replay: Annotated[bool, typer.Option("--replay", help="From the journal's beginning.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on live. Off where only replayed.")
    ] = True,
) -> None:
    """Show events as they are stored, one on a line; with `--replay`, those before them too."""
    here: session.Session = ctx.obj

    async def talk(agent: client.Client) -> None:
        async for entry in _entries(agent, run, stage, kind, replay=replay, live=follow):
            if here.json:
                console.write_json(entry, pretty=False)
            else:
                about = "" if run else f"{console.plain(entry.run_id)}  "
                print(f"{about}{board.line(entry.event)}", flush=True)  # noqa: T201 - a line of output

    here.ask(talk)


async def _entries(
    agent: client.Client,
    run: str | None,
    stage: str | None,
    kind: str | None,
    *,
    replay: bool,
    live: bool,
) -> AsyncIterator[client.Entry]:
    """Read what matches; without `live`, only what is stored until now."""
    source = agent.tail(run_id=run, stage=stage, kind=kind, from_start=replay or not live)
    while True:
        try:
            async with asyncio.timeout(None if live else QUIET_S):
                entry = await anext(source)
        except TimeoutError:
            return
        yield entry


async def follow(agent: client.Client, run_id: str, *, as_json: bool) -> board.Board:
    """Watch a run to its end; a run that did not succeed ends the command with its problem."""
    shown = board.Board()
    if as_json:
        async for entry in agent.follow(run_id):
            shown.take(entry.event)
            console.write_json(entry, pretty=False)
    elif sys.stdout.isatty():
        await _live(agent, run_id, shown)
    else:
        async for entry in agent.follow(run_id):
            shown.take(entry.event)
            print(board.line(entry.event), flush=True)  # noqa: T201 - a line of output
    _end(shown, run_id)
    return shown


async def _live(agent: client.Client, run_id: str, shown: board.Board) -> None:
    from rich import live

    with live.Live(console=console.rich_console(), auto_refresh=False) as screen:
        hearing = asyncio.create_task(_hear(agent, run_id, shown))
        drawing = asyncio.create_task(_draw(screen, shown))
        try:
            async for entry in agent.follow(run_id):
                shown.take(entry.event)
        finally:
            for task in (hearing, drawing):
                task.cancel()
            await asyncio.gather(hearing, drawing, return_exceptions=True)
            screen.update(shown.render(dt.datetime.now(dt.UTC)), refresh=True)


async def _hear(agent: client.Client, run_id: str, shown: board.Board) -> None:
    async for progress in agent.progress(run_id):
        shown.hear(progress)


async def _draw(screen: object, shown: board.Board) -> None:
    from rich import live

    assert isinstance(screen, live.Live)
    while True:
        screen.update(shown.render(dt.datetime.now(dt.UTC)), refresh=True)
        await asyncio.sleep(REFRESH_S)


def _end(shown: board.Board, run_id: str) -> None:
    match shown.end:
        case facts.RunFailed(problem=problem):
            raise console.Stop(problem)
        case facts.RunCancelled(reason=reason, by=by):
            message = f"the run was cancelled by {by}: {reason}".rstrip(": ")
            raise console.Stop(problems.Problem("cancelled", message, run_id=run_id))
        case _:
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.flush()
