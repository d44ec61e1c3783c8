"""Owns the commands about deployed models: endpoints, predict, rollback, undeploy, down."""

from __future__ import annotations

import getpass
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli import console, session

if TYPE_CHECKING:
    from protocol import serving

Model = Annotated[str, typer.Argument(metavar="MODEL", help="As mlpm endpoints lists it.")]


def endpoints(ctx: typer.Context) -> None:
    """List where deployed models answer."""
    here: session.Session = ctx.obj
    found = here.ask(lambda agent: agent.endpoints())
    if here.json:
        console.write_json(found)
        return
    console.table(
        ("model", "state", "version", "before", "replicas", "subject", "url"),
        (
            (
                console.escape(one.name),
                one.state,
                console.escape(", ".join(map(_shown, one.versions))),
                console.escape(one.before),
                ", ".join(str(each.replicas) for each in one.versions),
                one.subject,
                one.url,
            )
            for one in found.endpoints
        ),
    )


def predict(
    ctx: typer.Context,
    model: Model,
    rows: Annotated[
        str, typer.Argument(metavar="ROWS", help="A JSON file or JSON: a row, or a list; - reads.")
    ],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Give those of the classes, too.")
    ] = False,
) -> None:
    """Ask a deployed model, over the bus."""
    here: session.Session = ctx.obj
    asked = _asked(_rows(rows), probabilities=probabilities)
    told, version, _ = here.ask(lambda agent: agent.predict(_token(model), asked))
    if here.json:
        console.write_json({"version": version, **_plain(told)})
        return
    console.write(f"[bold]{console.escape(model)}[/] version {console.escape(version)}")
    likely: Any = told.probabilities or [None] * len(told.predictions)
    for said, shares in zip(told.predictions, likely, strict=True):
        more = "" if shares is None else "  ".join(f"{share:.3f}" for share in shares)
        console.write(console.escape(f"{said}  {more}".rstrip()))


def rollback(
    ctx: typer.Context,
    model: Model,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit log.")] = "",
) -> None:
    """Let the version before serve again, or stop a deployment that is under way."""
    here: session.Session = ctx.obj
    found = here.ask(lambda agent: agent.roll_back(_token(model), by=_me(), reason=reason))
    if here.json:
        console.write_json(found)
    else:
        serves = console.escape(", ".join(map(_shown, found.versions)))
        console.write(f"[bold]{console.escape(found.name)}[/] version {serves} serves")


def undeploy(ctx: typer.Context, model: Model) -> None:
    """Take an endpoint away."""
    here: session.Session = ctx.obj
    gone = here.ask(lambda agent: agent.undeploy(_token(model), by=_me()))
    if here.json:
        console.write_json(gone)
    else:
        console.write(f"[bold]{console.escape(gone.name)}[/] is gone")


def down(ctx: typer.Context) -> None:
    """End the agent of this data folder, and its serving host; both go on where they were."""
    from agent.cli import ending

    here: session.Session = ctx.obj
    ended = ending.end(here.settings.data_path)
    if here.json:
        console.write_json(ended)
        return
    for what, pid in ended.items():
        console.write(f"{what} (process {pid}) has ended")
    if not ended:
        console.write("nothing was running")


def _shown(one: serving.EndpointVersion) -> str:
    return one.version if one.weight == 1 else f"{one.version} ({one.weight:.0%})"


def _rows(text: str) -> Any:
    """Read a row, or several; a file where there is one of that name."""
    path = pathlib.Path(text)
    if text == "-":
        text = sys.stdin.read()
    elif not text.lstrip().startswith(("{", "[")):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            console.stop("not_found", f"{path} cannot be read: {error}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        console.stop("invalid_json", f"the rows are no JSON: {error}")


def _asked(rows: Any, *, probabilities: bool) -> serving.Predict:
    import msgspec

    from protocol import serving

    field = "rows" if isinstance(rows, list) else "row"
    try:
        return msgspec.convert({field: rows, "probabilities": probabilities}, serving.Predict)
    except msgspec.ValidationError as error:
        console.stop("invalid_field", str(error))


def _token(name: str) -> str:
    from protocol import subjects

    try:
        return subjects.token(name)
    except subjects.UnsafeToken as error:
        raise typer.BadParameter(str(error), param_hint="MODEL") from error


def _plain(told: serving.Predicted) -> dict[str, Any]:
    import msgspec

    return msgspec.to_builtins(told)


def _me() -> str:
    return f"cli-{getpass.getuser()}"
