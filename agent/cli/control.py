"""Owns the commands that steer one agent of the swarm: drain, undrain, capacity."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agent.cli import console, session

if TYPE_CHECKING:
    from protocol import client, swarm

LOOK_S = 0.5
AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="Its id, as `mlpm agents` shows it.")]
Action = Literal["drain", "undrain", "set_capacity"]


def drain(
    ctx: typer.Context,
    agent: AgentId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it holds no runs and nothing of others.")
    ] = False,
) -> None:
    """Let an agent finish what it holds and take nothing new."""
    _steer(ctx.obj, agent, "drain", wait=wait)


def undrain(ctx: typer.Context, agent: AgentId) -> None:
    """Let an agent take work again."""
    _steer(ctx.obj, agent, "undrain")


def capacity(
    ctx: typer.Context,
    agent: AgentId,
    attempts: Annotated[
        int | None,
        typer.Argument(
            metavar="[N]", min=0, help="Without it, what is configured or the cluster has."
        ),
    ] = None,
) -> None:
    """Set how many attempts an agent has at a time before it takes no more from the swarm."""
    _steer(ctx.obj, agent, "set_capacity", capacity=attempts)


def _steer(
    here: session.Session,
    name: str,
    action: Action,
    *,
    capacity: int | None = None,
    wait: bool = False,
) -> None:
    from protocol import subjects

    try:
        subjects.token(name)
    except subjects.UnsafeToken as error:
        raise typer.BadParameter(str(error), param_hint="AGENT") from error

    async def talk(agent: client.Client) -> swarm.AgentCard:
        card = await agent.control(name, action, capacity)
        return await _wait_idle(agent, card) if wait else card

    card = here.ask(talk)
    if here.json:
        console.write_json(card)
    else:
        console.write(
            f"agent [bold]{card.agent}[/] is {card.state}: {card.runs} runs held, "
            f"{card.load} of {card.capacity} attempts at work"
        )


async def _wait_idle(agent: client.Client, told: swarm.AgentCard) -> swarm.AgentCard:
    """Wait until a draining agent has nothing in hand, by a card that is newer than the first."""
    while True:
        found = [card for card in await agent.agents() if card.agent == told.agent]
        if not found:
            console.stop("unavailable", f"agent {told.agent!r} is gone")
        card = found[0]
        if card.state == "ready":
            message = f"agent {told.agent!r} was told to take work again"
            console.stop("conflict", message)
        if card.at > told.at and not card.runs and not card.load:
            return card
        await asyncio.sleep(LOOK_S)
