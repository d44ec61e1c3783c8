"""Owns the commands that question a run: why a stage ran or was reused, is the journal whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from agent import config
from agent.cli import console, inspection, session
from protocol import events

if TYPE_CHECKING:
    from agent.artifacts import store
    from protocol import client


class Explanation(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a stage ran, or was reused."""

    run_id: str
    stage: str
    use: str
    reason: str
    cached: bool = False
    key: str | None = None
    components: dict[str, Any] = {}
    differences: list[Any] = []
    """Against the most similar earlier work: component, before, now."""


class Verdict(msgspec.Struct, frozen=True):
    """What a check of a journal found."""

    run_id: str
    ok: bool
    commits: int
    head: str
    """SHA-256 of the last commit: keep it, and later cuts at the end can be found too."""
    findings: list[Any] = []


def why(
    ctx: typer.Context,
    run: inspection.RunId,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage's id.")],
) -> None:
    """Say why a stage ran or was taken from the cache: what its key was made of, what differed."""
    here: session.Session = ctx.obj
    found = here.ask(lambda agent: _history(agent, run, stage))
    explained = _explain(open_store(here), run, stage, found)
    if here.json:
        console.write_json(explained)
        return
    console.write(f"[bold]{stage}[/] ({explained.use}): {console.escape(explained.reason)}")
    if explained.differences:
        console.table(
            ("differs", "before", "now"),
            (
                (d.component, console.escape(str(d.before)), console.escape(str(d.now)))
                for d in explained.differences
            ),
        )
    if explained.components:
        console.write("the key was made of:")
        for name, value in explained.components.items():
            console.write(f"  {name:<10} {console.escape(str(value))}")


async def _history(
    agent: client.Client, run: str, stage: str
) -> tuple[str, events.StageEvent | None]:
    """Find the kind of the stage and the last event that ended it."""
    status = await agent.status(run)
    use = next((s.use for s in status.stages if s.id == stage), None)
    if use is None:
        known = ", ".join(s.id for s in status.stages)
        hint = f"its stages are {known}"
        console.stop("not_found", f"run {run} has no stage {stage!r}", hint=hint)
    from protocol import codec

    ended = (events.StageSucceeded, events.StageFailed, events.StageSkipped)
    last: events.StageEvent | None = None
    async for raw in agent.journal(run):
        for event in codec.decode(raw.data, events.Commit).events:
            if isinstance(event, ended) and event.stage == stage:
                last = event
    return use, last


def _explain(
    kept: store.Store, run: str, stage: str, found: tuple[str, events.StageEvent | None]
) -> Explanation:
    from agent.artifacts import cache

    use, event = found
    if isinstance(event, events.StageSkipped):
        return Explanation(run, stage, use, f"it was skipped: {event.reason}")
    if isinstance(event, events.StageFailed):
        return Explanation(run, stage, use, f"it failed and is not cached: {event.problem.message}")
    if not isinstance(event, events.StageSucceeded):
        return Explanation(run, stage, use, "it has not ended yet")
    if event.cache_key is None:
        return Explanation(
            run, stage, use, "it ran: this kind of stage, or this run, is not cached"
        )
    steps = cache.Cache(kept)
    record = steps.find(use, event.cache_key)
    gathered = record.components if record else {}
    differences: list[Any] = []
    if event.cached:
        reason = "taken from the cache: everything that its key is made of was the same"
    elif not gathered:
        reason = "it ran; the record of its key has been collected since"
    else:
        differences = steps.explain(use, gathered) or []
        names = ", ".join(d.component for d in differences)
        reason = f"it ran: {names} differed from the most similar earlier work"
        reason = reason if names else "it ran: nothing like it had been done before"
    return Explanation(
        run, stage, use, reason, event.cached, event.cache_key, gathered, differences
    )


def open_store(here: session.Session) -> store.Store:
    """Open the artifact store of the settings."""
    from agent.artifacts import objects, store
    from protocol import permissions

    settings = here.settings
    url = here.find_agent().nats_url if settings.artifacts.uri == config.OBJECTS else ""
    access = objects.access(url, settings.nats, permissions.OPERATOR)
    return store.Store(settings.artifacts_uri, settings.data_path / "artifact-copies", access)


def verify(ctx: typer.Context, run: inspection.RunId) -> None:
    """Check a run's journal commit by commit: loss or tampering breaks the chain of digests."""
    from protocol import chain

    here: session.Session = ctx.obj

    async def talk(agent: client.Client) -> list[bytes]:
        return [raw.data async for raw in agent.journal(run)]

    commits = here.ask(talk)
    if not commits:
        console.stop("not_found", f"there is no journal of run {run!r}", run_id=run)
    findings = chain.verify(commits, run)
    verdict = Verdict(run, not findings, len(commits), chain.digest(commits[-1]), findings)
    if here.json:
        console.write_json(verdict)
    elif verdict.ok:
        console.write(f"[green]whole[/]: {verdict.commits} commits, head {verdict.head}")
    else:
        for finding in findings:
            console.write(
                f"[red]{finding.fault}[/] at commit {finding.position}: {finding.message}"
            )
    if findings:
        raise typer.Exit(console.FAILED)
