"""Owns what is found: counted by kind, with the messages of the first of each kind kept."""

from __future__ import annotations

import collections
import pathlib
import re
from collections.abc import Sequence

import msgspec

from scripts.fuzz_parts import messages

EXAMPLES = 3
"""Of one kind, that are kept."""


class Case(msgspec.Struct, frozen=True):
    """What was found, and what brought it about: one message, or some of which one did."""

    about: str
    messages: list[messages.Message]
    detail: str = ""


class Findings:
    """All that was found."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.cases: list[Case] = []

    def add(self, about: str, sent: Sequence[messages.Message] = (), detail: str = "") -> None:
        """Take note of a finding."""
        self.counts[about] += 1
        if self.counts[about] <= EXAMPLES:
            self.cases.append(Case(about, list(sent), detail))

    def save(self, folder: pathlib.Path) -> None:
        """Write each kept case into a file of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, case in enumerate(self.cases):
            name = re.sub(r"[^A-Za-z0-9]+", "-", case.about)[:60].strip("-").lower()
            (folder / f"{number:03}-{name}.json").write_bytes(dump(case))


def dump(case: Case) -> bytes:
    """Write a case as JSON, with bytes in Base64."""
    return msgspec.json.format(msgspec.json.encode(case), indent=1)


def load(file: pathlib.Path) -> Case:
    """Read a case."""
    return msgspec.json.decode(file.read_bytes(), type=Case)
