"""Owns the asking of a Security-Auditor: the executor that carries `gate.audit` out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from agent import config, tasks
from agent.artifacts import store
from agent.audit import questions
from agent.bus import journal
from agent.execution import base
from agent.run import effects
from protocol import audit, codec, problems, subjects
from stages import values
from stages.gate import audit as gate

log = structlog.get_logger(__name__)

NAME = gate.NAME
ASK_AGAIN_S = 0.5
MOST_TOLD = 500
"""Characters of an auditor's reasons that are kept: they are to stand in the journal itself."""


class AuditorExecutor:
    """Runs gates: asks on the bus until there is a verdict, or the time for one is over."""

    def __init__(
        self,
        nc: Client,
        names: subjects.Subjects,
        kept: store.Store,
        journals: journal.Journal,
        settings: config.Settings,
    ) -> None:
        self._nc = nc
        self._names = names
        self._store = kept
        self._journals = journals
        self._settings = settings
        self._asking: dict[effects.WorkKey, asyncio.Task[base.Outcome]] = {}

    async def run(self, work: effects.Work, watcher: base.Watcher) -> base.Outcome:
        """Ask, and open the gate or not."""
        watcher.began()
        task = self._asking[work.key] = asyncio.create_task(self._asked(work), name="audit")
        try:
            await asyncio.wait({task})
            return base.Halted("asked") if task.cancelled() else task.result()
        finally:
            del self._asking[work.key]
            await tasks.end(task)

    async def stop(self, key: effects.WorkKey, *, force: bool) -> None:  # noqa: ARG002 - waiting ends at once
        """Wait for no answer any more."""
        if key in self._asking:
            self._asking[key].cancel()

    async def close(self) -> None:
        """Stop waiting."""
        await tasks.end(*self._asking.values())

    async def _asked(self, work: effects.Work) -> base.Outcome:
        started = time.monotonic()
        stage = msgspec.convert(dict(work.params), gate.Audit)
        try:
            run = await self._journals.read(work.key.run_id)
        except journal.Unavailable as error:
            return base.Failed(problems.Problem("unavailable", str(error), retryable=True))
        question = await asyncio.to_thread(
            questions.compose, work, [data for _, data in run], self._store, self._settings
        )
        verdict = await self._verdict(question, stage.within_s, work.traceparent)
        log.info(
            "gate.answered",
            run=work.key.run_id,
            stage=work.key.stage,
            verdict=verdict.verdict if verdict else "silence",
        )
        if refusal := _refusal(verdict, question, stage):
            return base.Failed(refusal)
        report = values.Report(_report(verdict, question))
        outputs = {"report": await asyncio.to_thread(self._store.put, report)}
        return base.Succeeded(outputs, {}, time.monotonic() - started)

    async def _verdict(
        self, question: audit.SecurityAudit, within_s: float, traceparent: str | None
    ) -> audit.SecurityVerdict | None:
        """Ask until somebody answers; None if nobody does within the time."""
        data = codec.encode(question)
        headers = {"traceparent": traceparent} if traceparent else None
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            try:
                reply = await self._nc.request(
                    self._names.audit_request, data, timeout=left, headers=headers
                )
            except (nats.errors.Error, TimeoutError):  # nobody is there yet, or the bus is away
                await asyncio.sleep(min(ASK_AGAIN_S, max(0.0, end - time.monotonic())))
                continue
            return _read(reply, question)
        return None


def _read(reply: Any, question: audit.SecurityAudit) -> audit.SecurityVerdict:
    """Read an answer; one that can't be read, or is of another question, denies."""
    failed = (reply.headers or {}).get("Nats-Service-Error")
    if failed:
        return _denied(question, f"the auditor could not judge: {failed}")
    try:
        verdict = codec.decode(reply.data, audit.SecurityVerdict)
    except codec.ProtocolError as error:
        return _denied(question, f"the auditor's answer can't be read: {error}")
    if verdict.audit_id != question.audit_id:
        return _denied(question, f"the auditor answered another question, {verdict.audit_id}")
    return verdict


def _denied(question: audit.SecurityAudit, reason: str) -> audit.SecurityVerdict:
    return audit.SecurityVerdict(question.audit_id, "deny", [reason])


def _refusal(
    verdict: audit.SecurityVerdict | None, question: audit.SecurityAudit, stage: gate.Audit
) -> problems.Problem | None:
    if verdict is None and stage.on_silence == "deny":
        said = f"no Security-Auditor answered audit {question.audit_id} within {stage.within_s:g} s"
        return problems.Problem("denied", said, hint="start one, then resume the run from here")
    if verdict is None or verdict.verdict == "allow":
        return None
    who = verdict.auditor or "the Security-Auditor"
    said = f"{who} denies audit {question.audit_id}: {_told(verdict)}"
    return problems.Problem("denied", said, hint="mend what it names, then resume from here")


def _report(verdict: audit.SecurityVerdict | None, question: audit.SecurityAudit) -> dict[str, Any]:
    who = (verdict.auditor or "a Security-Auditor") if verdict else "nobody"
    summary = f"allowed by {who}" if verdict else "nobody answered, and silence allows it"
    return {
        "title": "Security audit",
        "summary": summary[:200],
        "verdict": verdict.verdict if verdict else "silence",
        "reasons": _told(verdict) if verdict else "",
        "audit_id": question.audit_id,
        "pipeline_digest": question.pipeline_digest,
        "findings": len(question.findings),
    }


def _told(verdict: audit.SecurityVerdict) -> str:
    return "; ".join(verdict.reasons)[:MOST_TOLD] or "no reason is given"
