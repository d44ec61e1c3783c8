"""Owns the command that makes and shows the keys that requests are signed with."""

from __future__ import annotations

import os
import pathlib
from typing import Annotated, Literal

import typer

from agent.cli import console, session
from protocol import signing


def keys(
    ctx: typer.Context,
    what: Annotated[Literal["new", "show"], typer.Argument(help="Make a key, or show one.")],
    file: Annotated[pathlib.Path, typer.Argument(help="Where its secret half lies.")],
    name: Annotated[str, typer.Option(help="Whose it is, in `security.trusted_keys`.")] = "NAME",
) -> None:
    """Make a key that requests are signed with, or show the public half of one."""
    from protocol import credentials

    here: session.Session = ctx.obj
    if what == "new":
        _make(file)
    try:
        public = signing.read_key(str(file)).public
    except credentials.CredentialsError as error:
        console.stop("invalid_field", str(error))
    if here.json:
        console.write_json({"public": public, "file": str(file)})
    else:
        typer.echo(public)
        typer.echo(f'trust it with: security.trusted_keys = ["{name}={public}"]', err=True)


def _make(file: pathlib.Path) -> None:
    """Write a new seed that only this user can read; leave a file that is there alone."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        console.stop("conflict", f"{file} is there already: a key is never written over")
    except OSError as error:
        console.stop("invalid_field", f"{file} cannot be written: {error.strerror}")
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(signing.new_seed() + b"\n")
