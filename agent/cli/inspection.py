"""Owns the commands that look at runs and at what pipelines can be made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import console, session
from protocol import commands

if TYPE_CHECKING:
    from agent import parameters

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]


def runs(
    ctx: typer.Context,
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only runs of this pipeline.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
) -> None:
    """List runs, newest first."""
    here: session.Session = ctx.obj
    query = _query(state, pipeline, limit)
    found = here.ask(lambda agent: agent.list(query))
    if here.json:
        console.write_json(found)
        return
    console.table(
        ("run", "pipeline", "state", "accepted", "stages", "requester"),
        (
            (
                console.escape(run.run_id),
                console.escape(run.pipeline),
                console.state(run.state),
                console.moment(run.accepted_at),
                f"{run.stages_done}/{run.stages}",
                console.escape(run.requester),
            )
            for run in found.runs
        ),
    )


def _query(state: str | None, pipeline: str | None, limit: int) -> commands.RunListQuery:
    import msgspec

    given = {"state": state, "pipeline": pipeline, "limit": limit}
    try:
        return msgspec.convert(given, commands.RunListQuery)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error)) from error


def status(ctx: typer.Context, run: RunId) -> None:
    """Show where a run and each of its stages stand."""
    here: session.Session = ctx.obj
    found = here.ask(lambda agent: agent.status(run))
    if here.json:
        console.write_json(found)
    else:
        show_status(found)


def show_status(found: commands.RunStatus) -> None:
    """Write a run's state for a person."""
    console.write(
        f"{console.escape(found.pipeline)} [bold]{console.escape(found.run_id)}[/] "
        f"{console.state(found.state)}, accepted "
        f"{console.moment(found.accepted_at)} from {console.escape(found.requester)}"
    )
    console.table(
        ("stage", "kind", "state", "attempt", "time", "what"),
        (_stage_row(stage) for stage in found.stages),
    )
    if found.problem is not None:
        told = console.escape(f": {found.problem.message}")
        console.write(f"[red]{console.escape(found.problem.code)}[/]{told}")


def _stage_row(stage: commands.StageStatus) -> tuple[str, ...]:
    what = ["cached"] if stage.cached else []
    if stage.elements is not None:
        what.append(f"{stage.elements_done or 0}/{stage.elements} elements")
    what.append(console.metrics(stage.metrics))
    if stage.problem is not None:
        what.append(f"{stage.problem.code}: {stage.problem.message}")
    what += [stage.reason] if stage.reason else []
    text = console.escape("  ".join(part for part in what if part))
    took = console.seconds(stage.duration_s)
    attempt = str(stage.attempt or "")
    name, kind = console.escape(stage.id), console.escape(stage.use)
    return name, kind, console.state(stage.state), attempt, took, text


def stages(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="One kind of stage, or the start of names.")] = "",
) -> None:
    """List the kinds of stages; with a full name, explain one: ports and parameters."""
    here: session.Session = ctx.obj
    cards = _local_cards(name)
    exact = [card for card in cards if card.name == name]
    if name and not cards:
        hint = "mlpm stages lists them all"
        console.stop("unknown_stage", f"there is no kind of stage {name!r}", hint=hint)
    if here.json:
        console.write_json(exact or cards)
    elif exact:
        _explain(exact[0])
    else:
        console.table(
            ("stage", "takes", "gives", "what it does"),
            (
                (c.name, _ports(c.inputs), _ports(c.outputs), console.escape(c.summary))
                for c in cards
            ),
        )


def _local_cards(prefix: str) -> list[commands.StageCard]:
    from agent import catalog

    return catalog.Catalog().cards(prefix)


def _ports(ports: list[commands.Port]) -> str:
    return ", ".join(
        f"{port.name}{'*' if port.many else ''}{'?' if port.optional else ''}" for port in ports
    )


def _explain(card: commands.StageCard) -> None:
    console.write(f"[bold]{card.name}[/]  {console.escape(card.summary)}")
    console.write(f"takes {_ports(card.inputs) or 'nothing'}; gives {_ports(card.outputs)}")
    show_parameters(card.params)


def show_parameters(schema: dict[str, Any]) -> None:
    """Write what a stage or a template can be told."""
    from agent import parameters

    described = parameters.about(schema).partition("\n\n")[2]
    if described:
        console.write(console.escape(" ".join(described.split())))
    console.table(
        ("parameter", "default", "what"),
        (
            (each.name, console.escape(each.default or "required"), console.escape(_what(each)))
            for each in parameters.listed(schema)
        ),
    )


def _what(each: parameters.Parameter) -> str:
    return f"{each.type}. {each.about}" if each.about else each.type


def templates(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="One template.")] = "",
) -> None:
    """List the templates that design a pipeline themselves, or explain one."""
    from agent import templates as designs

    here: session.Session = ctx.obj
    if name and name not in designs.names():
        hint = f"there are {', '.join(designs.names())}"
        console.stop("unknown_template", f"there is no template {name!r}", hint=hint)
    cards = [card for card in designs.cards() if name in ("", card.name)]
    if here.json:
        console.write_json(cards)
        return
    for card in cards:
        console.write(f"[bold]{card.name}[/]  {console.escape(card.summary)}")
        if name:
            show_parameters(card.params)
