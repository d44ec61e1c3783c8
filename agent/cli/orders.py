"""Owns the commands that ask the agent for something: run, validate, cancel, resume, approve."""

from __future__ import annotations

import asyncio
import getpass
import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import console, files, inspection, session
from protocol import commands

if TYPE_CHECKING:
    from protocol import client

File = Annotated[pathlib.Path, typer.Argument(help="YAML or JSON; - reads standard input.")]
StageId = Annotated[str, typer.Argument(metavar="STAGE", help="The stage's id.")]
Reason = Annotated[str, typer.Option(help="Kept in the journal.")]


def run(
    ctx: typer.Context,
    file: File,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it to its end.")] = False,
) -> None:
    """Ask for a run: the file holds a pipeline, a template with params, or a whole request."""
    here: session.Session = ctx.obj
    request = _request(file)

    async def talk(agent: client.Client) -> commands.RunAccepted:
        accepted = await agent.submit(request)
        if not here.json:
            known = " (it was asked for before: this is that run)" if accepted.duplicate else ""
            console.write(f"run [bold]{accepted.run_id}[/] accepted{known}")
        elif not follow:
            console.write_json(accepted)
        if follow:
            from agent.cli import watching

            await watching.follow(agent, accepted.run_id, as_json=here.json)
        return accepted

    accepted = here.ask(talk)
    if not follow and not here.json:
        console.write(f"watch it: mlpm events {accepted.run_id} --replay --follow")


def validate(ctx: typer.Context, file: File) -> None:
    """Tell everything that is wrong with a request, and what its run would reuse."""
    here: session.Session = ctx.obj
    request = _request(file)
    found = here.ask(lambda agent: agent.validate(request))
    if here.json:
        console.write_json(found)
    elif found.ok:
        console.write("[green]ok[/]: it would be accepted")
        console.table(
            ("stage", "cache", "why"),
            ((f.stage, f.reuse, console.escape(f.reason)) for f in found.forecast),
        )
    else:
        for problem in found.problems:
            console.report(problem, as_json=False)
    if not found.ok:
        raise typer.Exit(console.FAILED)


def cancel(
    ctx: typer.Context,
    run: inspection.RunId,
    reason: Reason = "",
    grace_s: Annotated[float, typer.Option(min=0, help="Seconds before force is used.")] = 5.0,
    wait: Annotated[bool, typer.Option(help="Wait for the receipt.")] = True,
) -> None:
    """Stop a run and show the receipt: what was stopped, and that nothing of it runs any more."""
    here: session.Session = ctx.obj

    async def talk(agent: client.Client) -> commands.RunStatus:
        status = await agent.cancel(run, by=_me(), reason=reason, grace_s=grace_s)
        async with asyncio.timeout(grace_s + 60):
            if wait:
                async for _ in agent.follow(run):
                    pass
                status = await agent.status(run)
        return status

    _tell(here, here.ask(talk))


def resume(
    ctx: typer.Context,
    run: inspection.RunId,
    from_stage: Annotated[
        str | None, typer.Option("--from", help="Run this stage and all after it again.")
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--param", help="STAGE.PARAMETER=VALUE (JSON or text); again for more."),
    ] = None,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Only the quarantined elements of fan-outs.")
    ] = False,
) -> None:
    """Go on with a failed or cancelled run from its finished stages, or from a chosen one."""
    here: session.Session = ctx.obj
    changed = _params(params or [])

    async def talk(agent: client.Client) -> commands.RunStatus:
        return await agent.resume(
            run, by=_me(), from_stage=from_stage, params=changed, backfill=backfill
        )

    _tell(here, here.ask(talk))


def approve(
    ctx: typer.Context, run: inspection.RunId, stage: StageId, comment: Reason = ""
) -> None:
    """Let a stage go on that waits for a person."""
    _answer(ctx.obj, run, stage, comment, approved=True)


def deny(ctx: typer.Context, run: inspection.RunId, stage: StageId, comment: Reason = "") -> None:
    """Refuse a stage that waits for a person."""
    _answer(ctx.obj, run, stage, comment, approved=False)


def _answer(here: session.Session, run: str, stage: str, comment: str, *, approved: bool) -> None:
    async def talk(agent: client.Client) -> commands.RunStatus:
        return await agent.approve(run, stage, by=_me(), approved=approved, comment=comment)

    _tell(here, here.ask(talk))


def _tell(here: session.Session, status: commands.RunStatus) -> None:
    if here.json:
        console.write_json(status)
    else:
        inspection.show_status(status)


def _request(file: pathlib.Path) -> commands.PipelineRequest:
    from protocol import codec

    data = json.dumps(files.read(file), default=str).encode()
    try:
        return codec.decode(data, commands.PipelineRequest)
    except codec.ProtocolError as error:
        raise console.Stop(error.problem) from error


def _params(texts: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        stage, dot, name = place.partition(".")
        if not (equals and dot and name):
            message = f"{text!r} is not STAGE.PARAMETER=VALUE"
            raise typer.BadParameter(message, param_hint="--param")
        found.setdefault(stage, {})[name] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _me() -> str:
    return f"{getpass.getuser()} (mlpm)"
