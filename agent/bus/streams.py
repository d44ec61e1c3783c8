"""Owns the streams that the agent needs: made where missing, brought up to date where older."""

from __future__ import annotations

from typing import Any

from nats.js import JetStreamContext, api
from nats.js.errors import BadRequestError

from protocol import subjects

_DEDUPE_S = 120.0


class StreamDiffers(Exception):
    """A stream of that name exists and cannot be changed into what is needed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"stream {name!r} exists with other settings and cannot be changed ({reason}): "
            "use another nats.prefix, or remove the stream"
        )
        self.name = name


def configs(names: subjects.Subjects, replicas: int) -> list[api.StreamConfig]:
    """Describe every stream."""

    def stream(name: str, subject: str, **options: Any) -> api.StreamConfig:
        return api.StreamConfig(
            name=name,
            subjects=[subject],
            storage=api.StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=_DEDUPE_S,
            **options,
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
    ]


async def ensure(js: JetStreamContext, names: subjects.Subjects, replicas: int = 1) -> None:
    """Make or update every stream; raise StreamDiffers where one cannot be."""
    for wanted in configs(names, replicas):
        try:
            await js.add_stream(wanted)
        except BadRequestError:
            await _update(js, wanted)


async def _update(js: JetStreamContext, wanted: api.StreamConfig) -> None:
    try:
        await js.update_stream(wanted)
    except BadRequestError as error:
        raise StreamDiffers(str(wanted.name), error.description or "") from error
