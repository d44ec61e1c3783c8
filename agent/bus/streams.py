"""Owns the streams that the agent needs: made where missing, brought up to date where older."""

from __future__ import annotations

from typing import Any

from nats.js import JetStreamContext, api
from nats.js.errors import BadRequestError

from agent import config
from protocol import subjects, swarm

_DEDUPE_S = 120.0
_ASSIGNED_S = 3600.0
_REPORTS_S = 7 * 86400.0
"""How long the report of an assignment is kept; the journal of its run has it by then."""
_DAY_S = 86400.0
_CLOCKS_S = 60.0
_NONCES_BYTES = 64 * 2**20
_SECURITY = config.Security()


class StreamDiffers(Exception):
    """A stream of that name exists and cannot be changed into what is needed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"stream {name!r} exists with other settings and cannot be changed ({reason}): "
            "use another nats.prefix, or remove the stream"
        )
        self.name = name


def configs(
    names: subjects.Subjects, replicas: int, security: config.Security = _SECURITY
) -> list[api.StreamConfig]:
    """Describe every stream."""

    def stream(name: str, subject: str, **options: Any) -> api.StreamConfig:
        return api.StreamConfig(
            name=name,
            subjects=[subject],
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            **{"duplicate_window": _DEDUPE_S} | options,
        )

    work = api.RetentionPolicy.WORK_QUEUE
    return [
        stream(names.journal_stream, names.all_journals, allow_direct=True, deny_delete=True),
        stream(
            names.tickets_stream,
            names.tickets(),
            retention=work,
            # A run has one ticket: a second one is refused while the first is in the queue.
            discard=api.DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_msgs_per_subject=1,
        ),
        stream(names.intake_stream, names.pipeline_queue, retention=work),
        stream(names.alerts_stream, names.all_alerts),
        stream(names.deadletter_stream, names.deadletter),
        stream(
            names.audit_stream,
            names.audits_of(),
            max_age=security.audit_days * _DAY_S,
            max_bytes=security.audit_bytes,
            deny_delete=True,
            deny_purge=True,
        ),
        stream(
            names.nonces_stream,
            names.all_nonces,
            # A signature may be of the near future; and clocks of agents differ.
            max_age=2 * security.signature_window_s + _CLOCKS_S,
            max_bytes=_NONCES_BYTES,
            # Where no more fit, no more are taken: none is forgotten while it could be used again.
            discard=api.DiscardPolicy.NEW,
            duplicate_window=1.0,
        ),
        # Whoever restarts asks again for what it had assigned before.
        stream(names.work_stream, names.all_work, retention=work, duplicate_window=_ASSIGNED_S),
        stream(
            names.reports_stream,
            names.all_reports,
            max_age=_REPORTS_S,
            # An assignment has one report: a second one is refused.
            discard=api.DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_msgs_per_subject=1,
        ),
        *_buckets(names, replicas),
    ]


def _buckets(names: subjects.Subjects, replicas: int) -> list[api.StreamConfig]:
    return [_presence(names, replicas), _endpoints(names, replicas)]


def _presence(names: subjects.Subjects, replicas: int) -> api.StreamConfig:
    """Describe the bucket of agents' cards, as the key-value clients of NATS expect it."""
    return api.StreamConfig(
        name=names.presence_stream,
        subjects=[names.all_presence_keys],
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_msgs_per_subject=1,
        max_age=swarm.GONE_AFTER_S,
        duplicate_window=swarm.GONE_AFTER_S,
        discard=api.DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
        deny_delete=True,
    )


def _endpoints(names: subjects.Subjects, replicas: int) -> api.StreamConfig:
    """Describe the bucket of what is to be served, as the key-value clients of NATS expect it."""
    return api.StreamConfig(
        name=names.endpoints_stream,
        subjects=[names.all_endpoint_keys],
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_msgs_per_subject=8,  # a key's history, for whoever looks
        discard=api.DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
        deny_delete=True,
    )


def bucket(names: subjects.Subjects, replicas: int, most: int | None) -> api.StreamConfig:
    """Describe the bucket of artifacts, as the object store's clients of NATS expect it."""
    return api.StreamConfig(
        name=names.artifacts_stream,
        subjects=[f"$O.{names.artifacts_bucket}.{kind}.>" for kind in "CM"],
        storage=api.StorageType.FILE,
        num_replicas=replicas,
        max_bytes=-1 if most is None else most,
        discard=api.DiscardPolicy.NEW,
        allow_rollup_hdrs=True,
        allow_direct=True,
    )


async def ensure(
    js: JetStreamContext,
    names: subjects.Subjects,
    replicas: int = 1,
    security: config.Security = _SECURITY,
) -> None:
    """Make or update every stream; raise StreamDiffers where one cannot be."""
    for wanted in configs(names, replicas, security):
        await keep(js, wanted)


async def keep(js: JetStreamContext, wanted: api.StreamConfig) -> None:
    """Make or update a stream; raise StreamDiffers where it cannot be."""
    try:
        await js.add_stream(wanted)
    except BadRequestError:
        await _update(js, wanted)


async def _update(js: JetStreamContext, wanted: api.StreamConfig) -> None:
    try:
        await js.update_stream(wanted)
    except BadRequestError as error:
        raise StreamDiffers(str(wanted.name), error.description or "") from error
