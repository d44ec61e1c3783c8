"""Owns the command that lists the agents of a swarm."""

from __future__ import annotations

import datetime as dt

import typer

from agent.cli import console, session


def agents(ctx: typer.Context) -> None:
    """List the agents that are there: what each has in hand, and how much it takes on."""
    here: session.Session = ctx.obj
    found = here.ask(lambda agent: agent.agents())
    if here.json:
        console.write_json(found)
        return
    now = dt.datetime.now(dt.UTC)
    console.table(
        ("agent", "state", "runs", "at work", "version", "heard", "kinds of stages"),
        (
            (
                card.agent,
                card.state,
                str(card.runs),
                f"{card.load}/{card.capacity}",
                card.version,
                f"{max(0.0, (now - card.at).total_seconds()):.0f} s ago",
                str(len(card.capabilities)),
            )
            for card in found
        ),
    )
