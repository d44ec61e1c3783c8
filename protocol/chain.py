"""Owns the journal's own integrity: each commit names the bytes of the one before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from protocol import codec, events

Fault = Literal["undecodable", "wrong_run", "wrong_number", "wrong_previous", "epoch_went_back"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong with a journal; `position` counts its commits from 1."""

    position: int
    fault: Fault
    message: str


def digest(data: bytes) -> str:
    """Give the SHA-256 (hex) of a commit's bytes."""
    return hashlib.sha256(data).hexdigest()


def verify(commits: Iterable[bytes], run_id: str | None = None) -> list[Finding]:
    """Check a run's commits, as stored and in order; an empty list means that all is well."""
    found: list[Finding] = []
    last: events.Commit | None = None
    number, previous = 1, ""
    for position, data in enumerate(commits, start=1):
        try:
            commit = codec.decode(data, events.Commit)
        except codec.ProtocolError as error:
            found.append(Finding(position, "undecodable", error.problem.message))
            number, previous = number + 1, digest(data)
            continue
        expected = run_id or (last.run_id if last else commit.run_id)
        epoch = last.epoch if last else 0
        found += _check(
            position, commit, run_id=expected, number=number, previous=previous, epoch=epoch
        )
        last, number, previous = commit, commit.number + 1, digest(data)
    return found


def _check(
    position: int, commit: events.Commit, *, run_id: str, number: int, previous: str, epoch: int
) -> list[Finding]:
    found = []
    if commit.run_id != run_id:
        text = f"it is of run {commit.run_id!r}, not {run_id!r}"
        found.append(Finding(position, "wrong_run", text))
    if commit.number != number:
        text = f"its number is {commit.number} where {number} was expected"
        found.append(Finding(position, "wrong_number", text))
    if commit.previous != previous:
        text = "it does not follow the commit before it: one is missing or was changed"
        found.append(Finding(position, "wrong_previous", text))
    if commit.epoch < epoch:
        text = f"its epoch {commit.epoch} is older than {epoch}"
        found.append(Finding(position, "epoch_went_back", text))
    return found
