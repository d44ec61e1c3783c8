"""Owns what a piece of work is known by: everything that decides its outputs, digested to a key."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import msgspec
import structlog

from agent.artifacts import cache, store
from agent.execution import attempt
from agent.run import effects
from stages import kit, registry

log = structlog.get_logger(__name__)


class Known(msgspec.Struct, frozen=True):
    """What a piece of work is found by."""

    key: str
    components: cache.Components


class Unknowable(msgspec.Struct, frozen=True):
    """What decides the outputs cannot be told: nothing is reused, and nothing remembered."""

    reason: str


def excluded(work: effects.Work) -> str | None:
    """Say why the cache has no part in a piece of work, if so; known without a look at its data."""
    definition = registry.stages().get(work.use)
    if definition is None:
        return f"there is no stage {work.use!r}"
    if definition.effects:
        return "it changes something outside, so it runs each time"
    if not definition.cacheable:
        return "this kind of stage is never cached"
    return "the cache is off for it" if work.cache == "off" else None


class Identities:
    """Gathers what decides the outputs of work, before it is done and without doing it."""

    def __init__(self, kept: store.Store, services: kit.Services) -> None:
        self._store = kept
        self._services = services

    def of(self, work: effects.Work) -> Known | Unknowable:
        """Identify a piece of work that is not excluded. Blocks: lists and sources are read."""
        definition = registry.get(work.use)
        try:
            params, inputs = self._element(work, definition)
            source = self._fingerprint(work, definition, params)
            if source is None:
                return Unknowable("whether its source has changed cannot be told before it is read")
            parts = cache.components(definition, params, work.seed, inputs, source)
        except Exception as error:  # noqa: BLE001 - the attempt itself meets it again and reports it
            log.debug("work.not_identified", stage=work.key.stage, reason=str(error))
            return Unknowable(f"what it works on cannot be told: {error}")
        return Known(cache.key_of(parts), parts)

    def _element(
        self, work: effects.Work, definition: kit.Definition
    ) -> tuple[dict[str, Any], dict[str, str | list[str]]]:
        """Count the element of a fan-out as the parameter or input that it becomes."""
        params, inputs = dict(work.params), attempt.digests(work.inputs)
        item, into = work.item, work.item_into
        if item is None or into is None:
            return params, inputs
        if into in {port.name for port in definition.inputs}:
            return params, inputs | {into: item.source.digest}
        return params | {into: attempt.element(self._store, item, into)}, inputs

    def _fingerprint(
        self, work: effects.Work, definition: kit.Definition, params: dict[str, Any]
    ) -> str | None:
        stage = attempt.decode(definition, params)
        if definition.cls.fingerprint is kit.Stage.fingerprint:
            return ""
        with tempfile.TemporaryDirectory(prefix="mlpm-") as folder:
            context = kit.Context(
                workdir=pathlib.Path(folder), services=self._services, seed=work.seed
            )
            return stage.fingerprint(context)
