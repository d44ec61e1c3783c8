"""Owns the reading of a SARIF log: what of it is kept, and the refusal of what is none.

Only what a finding's row is made of is decoded; code flows and the like are skipped unread.
"""

from __future__ import annotations

import codecs
import pathlib
from typing import Any

import msgspec

from stages import kit, sources
from stages.ingest import text

VERSION = "2.1.0"
_NOTHING = msgspec.Raw(b"null")
_CONVERT = "convert the log to 2.1.0 (`sarif-multitool transform` does), or update the tool"


class NotJson(kit.DataFault):
    """A file that should be a SARIF log is no JSON."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} is not JSON: {reason}",
            hint="let the tool write the log to a file itself, and look where the file ends",
            path=sources.PATH,
        )


class NotSarif(kit.DataFault):
    """A file is JSON, and not a SARIF log."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} is not a SARIF log: {reason}",
            hint="ask the tool for SARIF, as `bandit -f sarif` or `ruff --output-format sarif`",
            path=sources.PATH,
        )


class WrongVersion(kit.DataFault):
    """A SARIF log is of another version than the one that is read."""

    def __init__(self, uri: str, version: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} is SARIF {version}, and {VERSION} is read",
            hint=_CONVERT,
            path=sources.PATH,
        )


class NotUtf8(kit.DataFault):
    """A SARIF log is not written in UTF-8."""

    def __init__(self, uri: str, offset: int) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} is not UTF-8, as SARIF has to be: byte {offset}",
            hint="a redirect in some shells writes UTF-16: let the tool write the file itself",
            path=sources.PATH,
        )
        self.offset = offset


class TooDeep(kit.DataFault):
    """A document is nested deeper than it can be read."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            f"{sources.shown(uri)!r} is nested too deep to be read",
            hint="no tool writes such a log: look at where it comes from",
            path=sources.PATH,
        )


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """A part of a log. Nothing in it has to be there, and null stands for what is not."""


class Message(_Part, frozen=True):
    """A text, or the id of one."""

    text: str | None = None
    markdown: str | None = None
    id: str | None = None
    arguments: list[Any] | None = None


class Place(_Part, frozen=True):
    """Where a file is: a URI, what it is relative to, or its number among the run's files."""

    uri: str | None = None
    uri_base_id: str | None = None
    index: int | None = None


class Region(_Part, frozen=True):
    """Lines of a file, counted from one. Numbers of any size are read, and judged later."""

    start_line: float | None = None
    start_column: float | None = None
    end_line: float | None = None
    end_column: float | None = None
    snippet: Message | None = None


class Physical(_Part, frozen=True):
    """A file and the lines in it."""

    artifact_location: Place | None = None
    region: Region | None = None
    context_region: Region | None = None


class Logical(_Part, frozen=True):
    """A function or class."""

    name: str | None = None
    fully_qualified_name: str | None = None


class Location(_Part, frozen=True):
    """Where a finding is."""

    physical_location: Physical | None = None
    logical_locations: list[Logical] | None = None


class Component(_Part, frozen=True):
    """A reference to a part of the tool, or to a taxonomy."""

    name: str | None = None
    index: int | None = None
    guid: str | None = None


class Reference(_Part, frozen=True):
    """A reference to a rule, or to an entry of a taxonomy."""

    id: str | None = None
    index: int | None = None
    guid: str | None = None
    tool_component: Component | None = None


class Relationship(_Part, frozen=True):
    """What a rule is related to."""

    target: Reference | None = None


class Configuration(_Part, frozen=True):
    """How a rule is set."""

    level: str | None = None


class Rule(_Part, frozen=True):
    """What a tool says of one of its rules."""

    id: str | None = None
    name: str | None = None
    guid: str | None = None
    short_description: Message | None = None
    full_description: Message | None = None
    message_strings: dict[str, Message] | None = None
    default_configuration: Configuration | None = None
    relationships: list[Relationship] | None = None
    help_uri: str | None = None
    properties: dict[str, Any] | None = None


class Driver(_Part, frozen=True):
    """The analyser, or an extension of it."""

    name: str | None = None
    version: str | None = None
    semantic_version: str | None = None
    guid: str | None = None
    rules: list[Rule] | None = None
    global_message_strings: dict[str, Message] | None = None


class Tool(_Part, frozen=True):
    """The analyser and its extensions."""

    driver: Driver | None = None
    extensions: list[Driver] | None = None


class Suppression(_Part, frozen=True):
    """A person's, or a comment's, dismissal of a finding."""

    kind: str | None = None
    status: str | None = None
    justification: str | None = None


class Provenance(_Part, frozen=True):
    """How a result came to be."""

    invocation_index: int | None = None


class Result(_Part, frozen=True):
    """A finding."""

    rule_id: str | None = None
    rule_index: int | None = None
    rule: Reference | None = None
    kind: str | None = None
    level: str | None = None
    message: Message | None = None
    locations: list[Location] | None = None
    suppressions: list[Suppression] | None = None
    fingerprints: dict[str, Any] | None = None
    partial_fingerprints: dict[str, Any] | None = None
    baseline_state: str | None = None
    rank: float | None = None
    guid: str | None = None
    taxa: list[Reference] | None = None
    provenance: Provenance | None = None
    properties: dict[str, Any] | None = None


class Artifact(_Part, frozen=True):
    """A file that was scanned."""

    location: Place | None = None
    contents: Message | None = None


class Override(_Part, frozen=True):
    """How a rule was set for one invocation."""

    descriptor: Reference | None = None
    configuration: Configuration | None = None


class Invocation(_Part, frozen=True):
    """One start of the tool."""

    execution_successful: bool | None = None
    rule_configuration_overrides: list[Override] | None = None


class Run(_Part, frozen=True):
    """What one run of a tool found."""

    tool: Tool | None = None
    results: list[Result] | None = None
    artifacts: list[Artifact] | None = None
    original_uri_base_ids: dict[str, Place] | None = None
    invocations: list[Invocation] | None = None
    external_property_file_references: dict[str, Any] | None = None


class _Head(msgspec.Struct, frozen=True):
    version: Any = None
    runs: msgspec.Raw = _NOTHING


class _Log(msgspec.Struct, frozen=True):
    runs: list[Run] | None = None


def read(uri: str, path: pathlib.Path) -> list[Run]:
    """Read the runs of a log; raise NotUtf8, NotJson, NotSarif, WrongVersion or TooDeep."""
    try:
        text.require_encoding(uri, path, "utf-8")
    except text.WrongEncoding as wrong:
        raise NotUtf8(uri, wrong.offset) from wrong
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return _runs(uri, content)
    except msgspec.ValidationError as error:
        raise NotSarif(uri, str(error)) from error
    except msgspec.DecodeError as error:
        raise NotJson(uri, str(error) if content.strip() else "it is empty") from error
    except RecursionError as error:
        raise TooDeep(uri) from error


def _runs(uri: str, content: bytes) -> list[Run]:
    """Look at the version first: the parts of another one have other shapes."""
    head = msgspec.json.decode(content, type=_Head)
    if head.version is None:
        raise NotSarif(uri, "it does not name its version")
    if head.version != VERSION:
        raise WrongVersion(uri, str(head.version)[:20])
    if head.runs is _NOTHING:
        raise NotSarif(uri, "it has no runs")
    return msgspec.json.decode(content, type=_Log).runs or []
