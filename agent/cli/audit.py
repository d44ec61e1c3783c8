"""Owns the command that audits a deployment, or a pipeline before it goes into production."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import console, files, session

if TYPE_CHECKING:
    from agent.audit import findings
    from protocol import client, pipelines

STYLES = {"high": "[red]high  [/]", "medium": "[yellow]medium[/]", "low": "[cyan]low   [/]"}
MOST_RUNS = 200
"""How many of the newest runs have their pipelines looked at."""


def audit(
    ctx: typer.Context,
    file: Annotated[
        pathlib.Path | None,
        typer.Argument(help="A pipeline or request; without it the deployment is audited."),
    ] = None,
    sarif: Annotated[bool, typer.Option("--sarif", help="Write a SARIF 2.1.0 log.")] = False,
    advisories: Annotated[
        str,
        typer.Option(help="OSV's URL, or a file of pip-audit's; empty looks nothing up."),
    ] = "https://api.osv.dev",
) -> None:
    """Find what is open, exposed or known to be weak, and say how to mend it; 1 if it is urgent."""
    from agent.audit import findings as found

    here: session.Session = ctx.obj
    listed = _of_file(here, file) if file else _of_deployment(here, advisories)
    if sarif:
        _write_sarif(listed, file)
    elif here.json:
        console.write_json({"findings": listed})
    else:
        _tell(listed)
    if found.has_high(listed):
        raise typer.Exit(console.FAILED)


def _of_file(here: session.Session, file: pathlib.Path) -> list[findings.Finding]:
    import json

    import msgspec

    from agent.audit import places, requests
    from protocol import codec, commands

    written = files.read(file)
    try:
        request = codec.decode(json.dumps(written).encode(), commands.PipelineRequest)
    except codec.ProtocolError as error:
        raise console.Stop(error.problem) from error
    found = requests.examine(requests.Subject(request, here.settings, written))
    text = "" if str(file) == "-" else file.read_text(encoding="utf-8")
    return [msgspec.structs.replace(one, line=places.line(text, one.where)) for one in found]


def _of_deployment(here: session.Session, advisories: str) -> list[findings.Finding]:
    from agent.audit import deployment

    url, accepted = _running(here)
    asked = deployment.Deployment(here.loaded(), url, accepted, advisories)
    return deployment.examine(asked)


def _running(here: session.Session) -> tuple[str, tuple[tuple[str, pipelines.Pipeline], ...]]:
    """Give the bus of the agent that should be running, and what it was asked for."""
    try:
        url = here.find_agent().nats_url
        return url, tuple(here.ask(_accepted))
    except console.Stop:
        return here.options.url or here.settings.nats.url, ()


async def _accepted(agent: client.Client) -> list[tuple[str, pipelines.Pipeline]]:
    from protocol import codec, commands, events

    found = []
    for run in (await agent.list(commands.RunListQuery(limit=MOST_RUNS))).runs:
        async for entry in agent.journal(run.run_id):
            first = codec.decode(entry.data, events.Commit).events[0]
            if isinstance(first, events.RunAccepted):
                found.append((run.run_id, first.pipeline))
            break
    return found


def _write_sarif(found: list[findings.Finding], file: pathlib.Path | None) -> None:
    from agent import version
    from agent.audit import sarif

    console.write_json(sarif.log(found, version.package_version(), file))


def _tell(found: list[findings.Finding]) -> None:
    for each in found:
        place = each.where if each.line is None else f"line {each.line}: {each.where}"
        style: Any = STYLES.get(each.severity, "info  ")
        console.write(f"{style}  {each.rule:<24} {console.escape(place)}")
        console.write(f"{'':<8}{console.escape(each.why)}")
        if each.mend:
            console.write(f"{'':<8}→ {console.escape(each.mend)}")
    counts = {level: sum(one.severity == level for one in found) for level in ("high", *STYLES)}
    console.write(", ".join(f"{number} {level}" for level, number in counts.items()))
