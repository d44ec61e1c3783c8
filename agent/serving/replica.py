"""Owns what runs in a replica of Ray Serve: one version of a model, loaded from the artifacts.

Bytes come in and go out. The model comes by reference, its digest checked; a model that cannot be
loaded is told to whoever asks, since Ray would only start the replica again and again.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from agent.artifacts import objects, store
from agent.bus import endpoints
from agent.execution import faults
from agent.serving import inputs, ports, predictor
from protocol import artifacts, codec, problems, serving
from stages import models, values

Question = tuple[bytes, str | None]
"""A request's body and its content type."""
Answer = tuple[int, bytes]
"""0 or the number of a problem, as in HTTP, and the body."""
OK = 0


class Place(msgspec.Struct, frozen=True):
    """Where a replica finds its model."""

    model: artifacts.ArtifactRef
    uri: str
    copies: str
    bus: objects.Access | None = None
    max_rows: int = inputs.MAX_ROWS


class About(msgspec.Struct, frozen=True):
    """What is known of a version that is loaded, or why it is not."""

    problem: problems.Problem | None = None
    card: models.ModelCard | None = None
    schema: dict[str, Any] = {}


class Replica:
    """Answers for one version of a model. Made by Ray Serve of plain bytes."""

    def __init__(self, place: bytes) -> None:
        ports.open_none()
        self._predictor: predictor.Predictor | None = None
        try:
            found = msgspec.json.decode(place, type=Place)
            self._kept = store.Store(found.uri, pathlib.Path(found.copies), found.bus)
            model = cast("models.Model", self._kept.get(found.model))
            self._predictor = predictor.Predictor(model, found.max_rows)
            self._about = About(card=self._predictor.card, schema=self._predictor.inputs.schema())
        except Exception as error:  # noqa: BLE001 - whatever ails a model is told
            self._about = About(problem=faults.problem_of(error))

    async def describe(self) -> bytes:
        """Give what is known of the version."""
        return msgspec.json.encode(self._about)

    async def predict(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer several requests, with one look at the model where they can all be read."""
        answers: dict[int, Answer] = {}
        asked: dict[int, inputs.Asked] = {}
        for place, question in enumerate(questions):
            try:
                asked[place] = self._loaded.inputs.read(*question)
            except Exception as error:  # noqa: BLE001 - it is told to whoever asked
                answers[place] = _refused(error, question)
        answers |= self._said(asked, questions)
        return [answers[place] for place in range(len(questions))]

    async def score(self, asked: bytes) -> Answer:
        """Score the version on rows with their target, beside what it is asked meanwhile."""
        try:
            wanted = msgspec.json.decode(asked, type=serving.HeldBack)
            score = await asyncio.to_thread(self._score, wanted)
        except Exception as error:  # noqa: BLE001 - it is told to whoever asked
            return _refused(error, (asked, None))
        return OK, msgspec.json.encode(score)

    def _score(self, wanted: serving.HeldBack) -> float:
        table = cast("values.Table", self._kept.get(wanted.table))
        return self._loaded.score(table, wanted.metric)

    @property
    def _loaded(self) -> predictor.Predictor:
        if self._predictor is None:
            problem = self._about.problem
            raise endpoints.Refusal(problem or problems.Problem("internal", "nothing is loaded"))
        return self._predictor

    def _said(
        self, asked: dict[int, inputs.Asked], questions: Sequence[Question]
    ) -> dict[int, Answer]:
        try:
            said = self._loaded.predict(list(asked.values())) if asked else []
        except Exception as error:  # noqa: BLE001 - it is told to whoever asked
            return self._one_by_one(asked, questions, error)
        pairs = zip(asked, said, strict=True)
        return {
            place: (OK, codec.encode(told, answered_as(questions[place][1])))
            for place, told in pairs
        }

    def _one_by_one(
        self,
        asked: dict[int, inputs.Asked],
        questions: Sequence[Question],
        error: Exception,
    ) -> dict[int, Answer]:
        """Let nobody suffer from what another has asked."""
        if len(asked) == 1:
            return {place: _refused(error, questions[place]) for place in asked}
        found: dict[int, Answer] = {}
        for place, one in asked.items():
            found |= self._said({place: one}, questions)
        return found


def answered_as(content_type: str | None) -> str | None:
    """Give the content type of the answer to a request: tables are answered in JSON."""
    return None if content_type == inputs.ARROW else content_type


def _refused(error: Exception, question: Question) -> Answer:
    if isinstance(error, (endpoints.Refusal, codec.ProtocolError)):
        problem = endpoints.problem_of(error)
    else:
        problem = faults.problem_of(error)
        problem = msgspec.structs.replace(problem, traceback=None)
    try:
        body = codec.encode(problem, answered_as(question[1]))
    except codec.ProtocolError:  # the content type itself was the problem
        body = codec.encode(problem)
    return endpoints.number(problem), body
