"""Owns the command that prints who may say and hear what on the bus."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from agent.cli import console, session
from protocol import accounts, subjects
from protocol import permissions as roles


def permissions(  # noqa: PLR0917 - each is an option of the command line
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="One role; all of them where not given.")] = "",
    form: Annotated[
        Literal["conf", "json"],
        typer.Option("--format", help="For nats-server's configuration, or as claims of JWTs."),
    ] = "conf",
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="ROLE=PUBLIC-NKEY, or ROLE:USER=PUBLIC-NKEY with an own inbox."),
    ] = None,
    reads: Annotated[
        list[str] | None,
        typer.Option("--reads", help="A stream that ingest.stream, in a worker, may read."),
    ] = None,
    objects: Annotated[
        bool, typer.Option("--objects", help="Artifacts are in the bus's object store.")
    ] = False,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="Workers read the bus's bucket of secrets.")
    ] = False,
    replays: Annotated[
        bool, typer.Option("--replays", help="Operators send dead letters again.")
    ] = False,
) -> None:
    """Print the accounts and permissions that a locked NATS server needs."""
    here: session.Session = ctx.obj
    names = subjects.Subjects(here.settings.nats.prefix)
    extras = roles.Extras(
        reads=tuple(reads or ()), secrets=secrets, objects=objects, replays=replays
    )
    keys = [_parted(text) for text in key or ()] or [
        (name, "", accounts.KEY) for name in roles.ROLES
    ]
    try:
        users = [_user(one, names, extras) for one in keys if role in {"", one[0]}]
        if role and not users:
            users = [_user((role, "", accounts.KEY), names, extras)]
    except (roles.NoSuchRole, subjects.UnsafeToken) as error:
        raise typer.BadParameter(str(error)) from error
    if form == "json" or here.json:
        console.write_json(_claims(users, whole=not role))
    elif role:
        typer.echo("\n".join(accounts.user(one) for one in users), nl=False)
    else:
        typer.echo(accounts.configuration(users), nl=False)


def _parted(text: str) -> tuple[str, str, str]:
    who, equals, nkey = text.partition("=")
    role, _, user = who.partition(":")
    if not equals or not nkey.startswith("U"):
        message = f"--key takes ROLE=PUBLIC-NKEY, the key of a user (U…); got {who!r}"
        raise typer.BadParameter(message)
    return role, user, nkey


def _user(
    one: tuple[str, str, str], names: subjects.Subjects, extras: roles.Extras
) -> accounts.User:
    name, user, nkey = one
    return accounts.User(roles.role(name, names, user=user, extras=extras), nkey)


def _claims(users: list[accounts.User], *, whole: bool) -> Any:
    told: dict[str, Any] = {"users": [accounts.claims(one.role) for one in users]}
    return told | ({"accounts": accounts.trade(users)} if whole else {})
