"""Owns what is told to operators: stored events, progress of long stages, alerts."""

from __future__ import annotations

import nats.errors
import structlog
from nats.aio.client import Client

from protocol import cloudevents, codec, events, subjects, swarm

log = structlog.get_logger()


class Announcer:
    """Publishes on core NATS what is stored already; a listener that is slow slows only itself."""

    def __init__(self, nc: Client, names: subjects.Subjects) -> None:
        self._nc = nc
        self._js = nc.jetstream()
        self._names = names

    async def commit(self, commit: events.Commit, traceparent: str | None = None) -> None:
        """Announce every event of a stored commit; one that cannot be sent is in the journal."""
        try:
            for index, event in enumerate(commit.events):
                headers, body = cloudevents.write(commit, index)
                if traceparent:
                    headers["traceparent"] = traceparent
                subject = self._names.event(commit.run_id, event.scope, cloudevents.token(event))
                await self._nc.publish(subject, body, headers=headers)
        except nats.errors.Error as error:
            log.warning("commit.not_announced", run=commit.run_id, error=type(error).__name__)

    async def progress(self, told: events.Progress) -> None:
        """Tell how far a stage is; nothing is stored."""
        await self._nc.publish(self._names.progress(told.run_id, told.stage), codec.encode(told))

    async def alert(self, alert: swarm.Alert) -> None:
        """Store an alert for somebody to look at."""
        await self._js.publish(
            self._names.alert(alert.severity),
            codec.encode(alert),
            stream=self._names.alerts_stream,
        )
