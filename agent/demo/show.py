"""Owns the demo: requests over the bus, live progress, and what came of them."""

from __future__ import annotations

import asyncio
import datetime as dt
import pathlib
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from agent import config
from agent.cli import board, connect, console, session, tracing
from agent.demo import answers, results, stack, topics
from protocol import client, commands, events, pipelines

REQUESTER = "demo-orchestrator"
REFRESH_S = 0.2


def run(here: session.Session, names: Sequence[str], *, fresh: bool) -> None:
    """Show these topics, and end with nothing left running."""
    started = time.monotonic()
    ours = stack.found(here) is None
    found = asyncio.run(_show(here, names, "refresh" if fresh else "use"))
    if here.json:
        console.write_json(found)
    else:
        _tell(here, found, time.monotonic() - started, ours=ours)


async def _show(
    here: session.Session, names: Sequence[str], cache: pipelines.CachePolicy
) -> list[results.Result]:
    folder = here.settings.data_path / "demo"
    shown = [topics.TOPICS[name] for name in names]
    _say(here, f"making the data: {', and '.join(topic.about for topic in shown)}")
    making = asyncio.gather(*(asyncio.to_thread(topic.orders, folder) for topic in shown))
    if stack.found(here) is None:
        _say(here, "starting an agent: its own NATS server, Ray, MLflow and training specialist")
    async with stack.running(here) as there:
        orders = [order for made in await making for order in made]
        url = config.redact(there.nats_url)
        _say(here, f"the agent is ready at {url}; sending {len(orders)} requests")
        async with connect.connected(there, here.settings) as agent:
            return await _carry_out(here, agent, orders, cache)


async def _carry_out(
    here: session.Session,
    agent: client.Client,
    orders: list[topics.Order],
    cache: pipelines.CachePolicy,
) -> list[results.Result]:
    accepted = await asyncio.gather(*(_submit(agent, order, cache) for order in orders))
    boards = [board.Board() for _ in orders]
    watching = [
        _watch(here, agent, one.run_id, shown) for one, shown in zip(accepted, boards, strict=True)
    ]
    if sys.stdout.isatty() and not here.json:
        await _live(watching, boards)
    else:
        await asyncio.gather(*watching)
    _all_succeeded(boards)
    return [
        await _came(here, agent, one.run_id, order)
        for one, order in zip(accepted, orders, strict=True)
    ]


async def _came(
    here: session.Session, agent: client.Client, run_id: str, order: topics.Order
) -> results.Result:
    """Gather what came of a request; where its model answers, ask it about a held-back row."""
    kept, status = tracing.open_store(here), await agent.status(run_id)
    found = results.gather(status, kept, order.metric, here.settings.data_path / "demo")
    if not order.deployed:
        return found
    answer = await answers.ask(agent, status, kept)
    return msgspec.structs.replace(found, answer=answer)


async def _submit(
    agent: client.Client, order: topics.Order, cache: pipelines.CachePolicy
) -> commands.RunAccepted:
    return await agent.submit(
        template=order.template,
        params=order.params,
        options=pipelines.Options(cache=cache),
        request_id=f"demo-{secrets.token_hex(6)}",
        requester=REQUESTER,
    )


async def _watch(
    here: session.Session, agent: client.Client, run_id: str, shown: board.Board
) -> None:
    hearing = asyncio.create_task(_hear(agent, run_id, shown))
    plain = not here.json and not sys.stdout.isatty()
    try:
        async for entry in agent.follow(run_id):
            shown.take(entry.event)
            if plain:
                print(f"{shown.title.split()[0]:<15} {board.line(entry.event)}", flush=True)  # noqa: T201 - a line of output
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


async def _hear(agent: client.Client, run_id: str, shown: board.Board) -> None:
    async for progress in agent.progress(run_id):
        shown.hear(progress)


async def _live(watching: list[Any], boards: list[board.Board]) -> None:
    from rich import console as screens
    from rich import live

    with live.Live(console=console.rich_console(), auto_refresh=False) as screen:
        work = asyncio.ensure_future(asyncio.gather(*watching))
        while True:
            done, _ = await asyncio.wait({work}, timeout=REFRESH_S)
            now = dt.datetime.now(dt.UTC)
            screen.update(screens.Group(*(b.render(now) for b in boards)), refresh=True)
            if done:
                break
    await work


def _all_succeeded(boards: list[board.Board]) -> None:
    for shown in boards:
        if isinstance(shown.end, events.RunFailed):
            raise console.Stop(shown.end.problem)
        if not isinstance(shown.end, events.RunSucceeded):
            console.stop("cancelled", f"{shown.title} did not end well")


def _say(here: session.Session, text: str) -> None:
    if not here.json:
        console.write(f"[dim]▸[/] {text}")


def _tell(here: session.Session, found: list[results.Result], took_s: float, *, ours: bool) -> None:
    for result in found:
        _tell_one(result)
    _tell_transfer(found)
    left = "nothing is left running" if ours else "the agent that was running still is"
    console.write()
    console.write(f"done in {console.seconds(took_s)}; {left}. Next:")
    run_id = found[0].run_id
    for command, what in (
        ("mlpm demo", "again: what has not changed comes from the cache"),
        ("mlpm up", "start an agent and leave it running; then, beside it:"),
        (f"mlpm why {run_id} train", "what the key of a stage's result was made of"),
        (f"mlpm verify {run_id}", "check the journal's chain of digests"),
        (f"mlpm events {run_id} --replay", "every fact of the run, from its first"),
    ):
        console.write(f"  [bold]{command}[/]  {what}")
    console.write(f"What the agent logged: {here.settings.data_path / 'agent.log'}")


def _tell_one(result: results.Result) -> None:
    console.write()
    reused = f", {result.cached} of {result.stages} stages from the cache"
    console.write(
        f"[bold]{result.pipeline}[/] {console.state(result.state)} in "
        f"{console.seconds(result.duration_s)}{reused if result.cached else ''}"
    )
    value, naive = _number(result.value), _number(result.baseline_value)
    better = f"; better by{_interval(result.better_by)}" if result.better_by else ""
    console.write(
        f"  {result.metric} {value}{_interval(result.interval)} "
        f"against {naive} of the baseline ({result.baseline}){better}"
    )
    if result.registered:
        console.write(f"  registered as {result.model} version {result.registered}")
    else:
        other = f"champion version {result.champion}" if result.champion else "the baseline"
        console.write(f"  not registered: no better than {other}")
    if result.answer is not None:
        said, actual = (console.escape(str(x)) for x in (result.answer.said, result.answer.actual))
        console.write(
            f"  answers at {result.answer.url}: {said}, of a held-back row that is {actual}"
        )
    console.write(f"  report {result.report}")
    if result.plots:
        console.write(f"  plots  {_together(result.plots)}")


def _tell_transfer(found: list[results.Result]) -> None:
    """Say what pretrained weights were worth, where a network was trained without them, too."""
    values = {result.pipeline: result.value for result in found}
    ours, random = values.get(topics.PRETRAINED), values.get(topics.RANDOM)
    if ours is not None and random is not None:
        console.write()
        console.write(
            f"pretrained weights are worth {100 * (ours - random):.0f} points of accuracy: "
            f"{ours:.1%} against {random:.1%} from random ones, in as many steps"
        )


def _together(paths: list[str]) -> str:
    """Name files of one folder in short."""
    folder = pathlib.Path(paths[0]).parent
    return f"{folder}: {', '.join(pathlib.Path(path).name for path in paths)}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _interval(bounds: list[float] | None) -> str:
    return f" \\[{bounds[0]:.4g}, {bounds[1]:.4g}]" if bounds else ""
