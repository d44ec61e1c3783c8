"""Owns the checks of a pipeline before it goes into production."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from agent import catalog, config
from agent.audit import findings, leaks
from protocol import commands, pipelines
from stages import hosts, kit, registry, sources

Found = Iterable[findings.Finding]
_URIS = ("uri", "uris", "url", "urls")
_LEARNING = ("train.", "prepare.split", "evaluate.", "features.")
_READING = "ingest."
_GATE = "gate."


class Subject(msgspec.Struct, frozen=True):
    """What is audited: a request, as it was written and as it was understood."""

    request: commands.PipelineRequest
    settings: config.Settings
    written: dict[str, Any]
    """As plain data, to tell what was left out from what has its default."""

    def stages(self) -> Iterator[tuple[str, pipelines.Stage]]:
        """Give every stage with its path."""
        pipeline = self.request.pipeline
        for index, stage in enumerate(pipeline.stages if pipeline else ()):
            yield f"$.pipeline.stages[{index}]", stage

    def params(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give all parameters with their paths."""
        yield "$.params", self.request.params
        for path, stage in self.stages():
            yield f"{path}.with", stage.params


def examine(subject: Subject) -> list[findings.Finding]:
    """Carry out every check of a pipeline."""
    return findings.carry_out(CHECKS, subject)


def _it_would_be_accepted(subject: Subject) -> Found:
    pipeline = subject.request.pipeline
    if pipeline is None:
        why = "the agent designs the stages of a template; only its parameters were looked at"
        mend = "audit what `mlpm validate --json` shows under pipeline"
        yield findings.Finding("pipeline/template", "info", "$.template", why, mend)
        return
    for problem in catalog.Catalog().check(pipeline):
        where, mend = problem.path or "$.pipeline", problem.hint or ""
        yield findings.Finding("pipeline/invalid", "high", where, problem.message, mend)


def _it_holds_no_secret(subject: Subject) -> Found:
    for path, what in leaks.in_data(subject.written):
        mend = 'say where it is kept instead: {"env": …}, {"file": …} or {"kv": …}'
        why = f"it holds {what}; requests are kept in the journal"
        yield findings.Finding("pipeline/secret", "high", path, why, mend)


def _uris_are_within_bounds(subject: Subject) -> Found:
    services = subject.settings.services("")
    for path, uri in _uris(subject):
        try:
            _judge(uri, services)
        except kit.StageFault as fault:
            mend = fault.hint or "mend the URI"
            yield findings.Finding("pipeline/out-of-bounds", "high", path, str(fault), mend)


def _judge(uri: str, services: kit.Services) -> None:
    """Judge a URI as a stage will, but for what only DNS knows."""
    scheme = hosts.split(uri).scheme
    if scheme.startswith(("postgres", "mysql", "mariadb", "sqlite", "adbc", "oracle", "mssql")):
        return  # databases have rules of their own, which the stage applies
    if sources.is_local(uri):
        sources.local_path(uri, services)
        return
    if scheme not in services.allowed_schemes:
        raise hosts.SchemeRefused(scheme, services)
    host = hosts.split(uri).hostname or ""
    known = scheme not in ("http", "https") or not services.allowed_hosts
    if not known and not hosts.is_listed(host, services):
        raise hosts.HostRefused(host, "it is not among the allowed hosts")


def _uris(subject: Subject) -> Iterator[tuple[str, str]]:
    for path, params in subject.params():
        for name in _URIS:
            value = params.get(name, [])
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str):
                    yield f"{path}.{name}", each


def _urls_are_encrypted(subject: Subject) -> Found:
    for path, uri in _uris(subject):
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme in {"http", "ftp"} and parts.hostname not in {"localhost", "127.0.0.1"}:
            why = "what is read can be changed on its way, and the model with it"
            yield findings.Finding("pipeline/plaintext", "medium", path, why, "use https:")


def _effects_stand_behind_a_gate(subject: Subject) -> Found:
    gated = _behind_gates(subject)
    for path, stage in subject.stages():
        definition = registry.stages().get(stage.use)
        changes = definition is not None and definition.effects and not stage.use.startswith(_GATE)
        if changes and stage.id not in gated and stage.when is None:
            why = f"{stage.use} changes something outside, and nothing stands before it"
            mend = "give it an approval, let it need a gate.audit, or a when that measures"
            yield findings.Finding("pipeline/ungated", "medium", path, why, mend)


def _behind_gates(subject: Subject) -> set[str]:
    """Name the stages that wait for an approval or for a gate, their own or an earlier one's."""
    listed = [stage for _, stage in subject.stages()]
    found = {one.id for one in listed if one.approval is not None or one.use.startswith(_GATE)}
    for _ in listed:
        found |= {one.id for one in listed if found & _before(one)}
    return found


def _before(stage: pipelines.Stage) -> set[str]:
    return {*stage.needs, *(each.partition(".")[0] for each in stage.inputs.values())}


def _gates_hold(subject: Subject) -> Found:
    for path, stage in subject.stages():
        if not stage.use.startswith(_GATE):
            continue
        if stage.on_failure != "fail":
            why = "what follows goes on though the gate says no"
            mend = "leave on_failure at fail"
            yield findings.Finding("pipeline/loose-gate", "high", f"{path}.on_failure", why, mend)
        if stage.params.get("on_silence") == "allow":
            why = "where no auditor answers, the gate opens"
            mend = "leave on_silence at deny"
            where = f"{path}.with.on_silence"
            yield findings.Finding("pipeline/loose-gate", "high", where, why, mend)


def _stages_end(subject: Subject) -> Found:
    for path, stage in subject.stages():
        if stage.timeout_s is None:
            why = "an attempt may take for ever"
            yield findings.Finding("pipeline/no-timeout", "low", path, why, "set timeout_s")
        if stage.use.startswith(_READING) and stage.retry.max_attempts == 1:
            why = "one failure of what is read ends the run"
            yield findings.Finding(
                "pipeline/no-retry", "low", f"{path}.retry", why, "set retry.max_attempts"
            )


def _the_run_ends(subject: Subject) -> Found:
    if subject.request.options.deadline_s is None:
        why, mend = "the run may take for ever", "set options.deadline_s"
        yield findings.Finding("pipeline/no-deadline", "low", "$.options", why, mend)


def _chance_is_seeded(subject: Subject) -> Found:
    seeded = "seed" in (subject.written.get("options") or {})
    for path, stage in subject.stages():
        own = stage.seed is not None or "seed" in stage.params
        if stage.use.startswith(_LEARNING) and not seeded and not own:
            why = "its chance follows a seed that nobody chose"
            mend = "set options.seed, and change it to see how much chance is in the result"
            yield findings.Finding("pipeline/no-seed", "low", path, why, mend)


CHECKS: tuple[Callable[[Subject], Found], ...] = (
    _it_would_be_accepted,
    _it_holds_no_secret,
    _uris_are_within_bounds,
    _urls_are_encrypted,
    _effects_stand_behind_a_gate,
    _gates_hold,
    _stages_end,
    _the_run_ends,
    _chance_is_seeded,
)
