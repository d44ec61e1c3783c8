"""Owns what each requester may have: how large a run, how long, and how many of them at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

import msgspec

from agent import config
from agent.bus import endpoints
from agent.conductor import backlog
from protocol import codec, commands, events, pipelines, problems


class Limit(NamedTuple):
    """A limit, and the setting that it comes from."""

    value: float
    key: str


class Asker(NamedTuple):
    """Who asks for a run."""

    name: str
    """That the limits are looked up by: whose key has signed, or else who it claims to be."""
    line: str
    """That the runs are counted by: a claimed name is told from the same one that was proven."""


class Listing(Protocol):
    """What is known of the runs that there are."""

    def knows(self, run_id: str) -> bool:
        """Tell whether it has heard of a run."""

    def going(self, requester: str) -> Mapping[str, commands.RunState]:
        """Give the runs of a requester that neither ended nor wait for a person or a date."""


class Limits:
    """Says what a request has too much of, and bounds what is accepted."""

    def __init__(self, settings: config.Limits, listing: Listing) -> None:
        self._settings = settings
        self._listing = listing
        self._entering: dict[str, set[str]] = {}
        """Runs that are let in, by requester, until the listing has heard of them."""

    def check(
        self,
        request: commands.PipelineRequest,
        run_id: str,
        who: Asker,
        pipeline: pipelines.Pipeline | None = None,
    ) -> list[problems.Problem]:
        """Find all that a request has too much of; what passes by itself comes last."""
        found = [
            self._too_long(request, who.name),
            self._too_many_stages(pipeline, who.name) if pipeline else None,
            *self._too_many_runs(run_id, who),
        ]
        return [one for one in found if one is not None]

    @contextlib.contextmanager
    def entering(self, run_id: str, who: Asker) -> Iterator[None]:
        """Count a run from now on, unless it is not accepted."""
        if not self._counts(who.name):
            yield
            return
        entering = self._entering.setdefault(who.line, set())
        entering.add(run_id)
        try:
            yield
        except BaseException:
            entering.discard(run_id)
            raise

    def options(self, asked: pipelines.Options, who: Asker) -> pipelines.Options:
        """Give a run no more time than its requester may have."""
        limit = self._find(who.name, "max_run_s")
        if limit is None or (asked.deadline_s is not None and asked.deadline_s <= limit.value):
            return asked
        return msgspec.structs.replace(asked, deadline_s=limit.value)

    def bounds(self, who: Asker) -> events.Bounds:
        """Say what whoever conducts the run holds it to."""
        fan_out = self._find(who.name, "max_fan_out")
        size = self._find(who.name, "max_artifact_bytes")
        return events.Bounds(
            max_fan_out=int(fan_out.value) if fan_out else None,
            max_artifact_bytes=int(size.value) if size else None,
        )

    def _too_long(self, request: commands.PipelineRequest, who: str) -> problems.Problem | None:
        limit = self._find(who, "max_payload_bytes")
        if limit is None or (size := len(codec.encode(request))) <= limit.value:
            return None
        message = f"the request takes {size} bytes, and {who!r} may send {limit.value}"
        return problems.Problem("payload_too_large", message, path="$", hint=_hint(limit))

    def _too_many_stages(self, pipeline: pipelines.Pipeline, who: str) -> problems.Problem | None:
        limit, count = self._find(who, "max_stages"), len(pipeline.stages)
        if limit is None or count <= limit.value:
            return None
        message = f"the pipeline has {count} stages, and {who!r} may have {limit.value}"
        path = "$.pipeline.stages"
        return problems.Problem("payload_too_large", message, path=path, hint=_hint(limit))

    def _too_many_runs(self, run_id: str, who: Asker) -> Iterator[problems.Problem]:
        """Count the runs of a requester, unless this is one of them already."""
        if not self._counts(who.name) or self._listing.knows(run_id):
            return
        going = self._listing.going(who.line)
        entering = {run for run in self._entering.get(who.line, ()) if not self._listing.knows(run)}
        self._entering[who.line] = entering
        if run_id in entering:
            return
        queued = [run for run, state in going.items() if state == "queued"]
        for name, count, what in (
            ("max_active", len(going) + len(entering), "that are queued or under way"),
            ("max_waiting", len(queued) + len(entering), "that no agent has taken yet"),
        ):
            limit = self._find(who.name, name)
            if limit is not None and count >= limit.value:
                message = f"{who.name!r} has {count} runs {what}, and may have {limit.value}"
                yield overloaded(message, "$.requester", limit)

    def _counts(self, who: str) -> bool:
        return any(self._find(who, name) for name in ("max_active", "max_waiting"))

    def _find(self, who: str, name: str) -> Limit | None:
        """Look up what holds for a requester: its own limit, or everybody's."""
        own = self._settings.requesters.get(who)
        for allowance, key in (
            (own, f'limits.requesters."{who}"'),
            (self._settings.default, "limits.default"),
        ):
            value = getattr(allowance, name, None)
            if value is not None:
                return Limit(value, f"{key}.{name}")
        return None


def asker(request: commands.PipelineRequest, caller: endpoints.Caller) -> Asker:
    """Say who asks."""
    share = backlog.share(request.requester, caller.signed_by, request.options.priority)
    return Asker(caller.signed_by or request.requester, share.requester)


def overloaded(
    message: str, path: str | None = None, limit: Limit | None = None
) -> problems.Problem:
    """Make the problem of what may be asked again, as it is, in a while."""
    hint = f"send the same request again after {endpoints.RETRY_AFTER_S} s"
    hint += f"; {_hint(limit)}" if limit else ""
    return problems.Problem("overloaded", message, path=path, hint=hint, retryable=True)


def _hint(limit: Limit) -> str:
    return f"the agent's setting {limit.key} is {limit.value}"
