"""Owns the commands about this machine: start, check up, configure, show the contract, clean."""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
import typer

from agent.cli import console, session
from protocol import problems

ANEW = "start the agent anew, or have a supervisor do it: its runs go on"
LEVELS = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def up(
    ctx: typer.Context,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the effective configuration and end.")
    ] = False,
    stages: Annotated[
        list[str] | None, typer.Option("--stages", help="A module with further stages.")
    ] = None,
) -> None:
    """Start the agent; without configuration it brings its own bus, cluster and specialist."""
    here: session.Session = ctx.obj
    if print_config:
        show_config(here)
        return
    settings = here.settings
    import uvloop

    from agent import address, service
    from agent.config import redact
    from agent.execution import vigil

    def ready(where: address.Address) -> None:
        # Standard output may be kept for others to read: what lets in is in the data folder alone.
        url = redact(where.nats_url)
        if here.json:
            console.write_json(msgspec.structs.replace(where, nats_url=url), pretty=False)
        else:
            console.write(f"agent [bold]{where.agent_id}[/] is ready at {url}")

    async def serve() -> None:
        try:
            await service.serve(settings, ready, modules=tuple(stages or ()))
        except (service.CutOff, vigil.ClusterLost) as failure:
            problem = problems.Problem("unavailable", str(failure), hint=ANEW)
            console.report(problem, as_json=here.json)
            os._exit(console.UNAVAILABLE)  # what asks a cluster that is gone hangs for a minute

    uvloop.run(serve())


def demo(
    ctx: typer.Context,
    topic: Annotated[
        str, typer.Argument(metavar="[forecast|findings|image|text|all]", help="All, or one.")
    ] = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute everything again, whatever is cached.")
    ] = False,
) -> None:
    """Run the main job on real data, from a request to a model that answers.

    Without a word it is the forecast and the findings; the networks take some minutes.
    """
    from agent.demo import show as demonstration
    from agent.demo import topics

    here: session.Session = ctx.obj
    try:
        names = topics.chosen(topic)
    except KeyError:
        known = ", ".join((*topics.TOPICS, topics.ALL))
        console.stop("not_found", f"there is no demo {topic!r}", hint=f"there are {known}")
    demonstration.run(here, names, fresh=fresh)


def doctor(ctx: typer.Context) -> None:
    """Check every part the agent stands on and say how to mend what is amiss."""
    from agent import doctor as checks

    here: session.Session = ctx.obj
    findings = [*checks.examine(here.settings), *_answers(here)]
    if here.json:
        console.write_json({"level": checks.worst(findings), "findings": findings})
    else:
        for finding in findings:
            message = console.escape(finding.message)
            console.write(f"{LEVELS[finding.level]}  {finding.part:<15} {message}")
            if finding.mend:
                console.write(f"{'':<23}→ {console.escape(finding.mend)}")
    if checks.worst(findings) == "fail":
        raise typer.Exit(console.FAILED)


def _answers(here: session.Session) -> list[Any]:
    """Check that the agent and a specialist answer, where one should be running."""
    from agent.cli import checkup

    return checkup.ask(here)


def config(ctx: typer.Context) -> None:
    """Show every setting: its effective value and where it comes from."""
    show_config(ctx.obj)


def show_config(here: session.Session) -> None:
    """Write the effective configuration, with secrets hidden."""
    shown = here.loaded().shown()
    if here.json:
        console.write_json(shown)
        return
    console.table(
        ("setting", "value", "from"),
        (
            (key, console.escape(_text(value.value)), console.escape(value.source))
            for key, value in shown.items()
        ),
    )


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def schema(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A message, as PipelineRequest.")] = "",
) -> None:
    """Print the JSON Schema of a message of the wire contract; without a name, list them."""
    from agent.cli import messages

    here: session.Session = ctx.obj
    known = messages.known()
    if name:
        console.write_json(messages.schema(name))
    elif here.json:
        console.write_json(sorted(known))
    else:
        console.table(("message", "what it is"), sorted(known.items()))


def gc(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
    drop_cache: Annotated[
        bool, typer.Option("--drop-cache", help="Keep only what runs in the journal refer to.")
    ] = False,
    grace_s: Annotated[
        float, typer.Option(min=0, help="Leave artifacts younger than this alone.")
    ] = 3600.0,
) -> None:
    """Delete the artifacts that neither a run's journal nor the step cache refers to."""
    from agent.cli import collection

    here: session.Session = ctx.obj
    swept = collection.collect(here, dry_run=dry_run, drop_cache=drop_cache, grace_s=grace_s)
    if here.json:
        console.write_json(swept)
    else:
        verb = "would be deleted" if dry_run else "deleted"
        console.write(f"{swept.deleted} artifacts {verb}, {swept.kept} kept")
