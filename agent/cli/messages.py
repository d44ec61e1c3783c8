"""Owns the list of messages whose schema can be printed."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import msgspec

from agent.cli import console
from protocol import (
    artifacts,
    audit,
    commands,
    events,
    pipelines,
    problems,
    serving,
    swarm,
    training,
    wire,
)

ROOMS = (commands, events, pipelines, training, serving, swarm, audit, artifacts, problems)


def known() -> dict[str, str]:
    """Give each message's name with the first line of its description.

    An event that shares its name with a reply stands as `events.NAME`.
    """
    return {
        name: (inspect.getdoc(cls) or "").splitlines()[0] for name, cls in sorted(_all().items())
    }


def schema(name: str) -> dict[str, Any]:
    """Give the JSON Schema of a message, or end the command."""
    found = _all()
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "mlpm schema lists them"
        console.stop("not_found", f"there is no message {name!r}", hint=hint)
    return msgspec.json.schema(found[name])


def _all() -> dict[str, type[msgspec.Struct]]:
    found: dict[str, type[msgspec.Struct]] = {}
    for room in ROOMS:
        short = room.__name__.rpartition(".")[2]
        for name, thing in vars(room).items():
            ours = isinstance(thing, type) and issubclass(thing, (wire.Command, wire.Fact))
            if ours and thing.__module__ == room.__name__:
                found[f"{short}.{name}" if name in found else name] = thing
    return found
