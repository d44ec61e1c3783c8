"""Owns the reports of assignments: the first that is stored is the answer, whoever gives it."""

from __future__ import annotations

import nats.js.errors
import structlog
from nats.aio.client import Client

from protocol import codec, subjects, swarm

log = structlog.get_logger(__name__)

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_REPORTED = {10071, 10077}
"""The error codes of a stream whose subject has its message already; the latter is also that of
one that stores nothing now, being full for instance."""


class Reports:
    """Gives and reads reports."""

    def __init__(self, nc: Client, names: subjects.Subjects) -> None:
        self._js = nc.jetstream()
        self._names = names

    async def give(self, report: swarm.StageReport) -> bool:
        """Store a report; False if the assignment has one, which then is the answer.

        Raises nats.errors.Error or TimeoutError while the bus is away, or stores nothing.
        """
        try:
            await self._js.publish(
                self._names.report(report.assignment_id),
                codec.encode(report),
                stream=self._names.reports_stream,
                headers={_EXPECTED: "0"},
            )
        except nats.js.errors.APIError as error:
            if error.err_code not in _REPORTED or await self.read(report.assignment_id) is None:
                raise
            log.info("report.refused", assignment=report.assignment_id)
            return False
        return True

    async def read(self, assignment_id: str) -> swarm.StageReport | None:
        """Give the report of an assignment, if it has one; raises as `give` does."""
        try:
            kept = await self._js.get_last_msg(
                self._names.reports_stream, self._names.report(assignment_id)
            )
        except nats.js.errors.NotFoundError:
            return None
        try:
            return codec.decode(kept.data or b"", swarm.StageReport)
        except codec.ProtocolError as error:
            return swarm.StageReport(assignment_id, "somebody", "failed", problem=error.problem)
