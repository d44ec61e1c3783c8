"""Owns what a prompt can say: plain words and JSON become commands of the contract.

Nothing here awaits, and nothing guesses: what is not understood is a problem with a hint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agent.prompting import convention
from protocol import codec, commands, diagnosis, problems, wire

BY = "agents.prompt"
"""Who asked, in the journal, where no signature tells: other names cannot be trusted."""
MOST_RUNS = 20
HELP = """\
I run machine-learning pipelines. Prompt me with a PipelineRequest as JSON, or with one of:
  run                    runs the PipelineRequest that is attached as JSON
  follow RUN             tells what a run did and does, until it is over
  status RUN             tells where a run and each of its stages stand
  runs                   lists the newest runs
  cancel RUN [REASON]    stops a run
  resume RUN             lets a failed or cancelled run go on
  stages [PREFIX]        lists the kinds of stages and the templates
  help                   tells this
A run goes on when you stop listening; `follow RUN` takes its stream up again. Where a stage waits
for approval, you are asked: answer `approve` or `deny`, with a comment after it if you like."""


class NotUnderstood(codec.ProtocolError):
    """A prompt is neither a request nor one of the words that are known."""

    def __init__(self, message: str, hint: str = "`help` lists what can be said") -> None:
        found = problems.Problem("invalid_field", message, path="$.prompt", hint=hint)
        super().__init__([found])


class Help(msgspec.Struct, frozen=True):
    """Say what can be said."""


class Follow(wire.Command, frozen=True):
    """Tell a run's events until it is over."""

    run_id: wire.Id


class Answer(msgspec.Struct, frozen=True):
    """What a caller says to a gate."""

    approved: bool
    comment: str


Order = (
    commands.PipelineRequest
    | commands.RunQuery
    | commands.RunListQuery
    | commands.Cancel
    | commands.Resume
    | commands.CatalogQuery
    | Follow
    | Help
)


def read(asked: convention.Envelope) -> Order:
    """Read an order. Raises codec.ProtocolError."""
    text = asked.prompt.strip()
    if asked.attachments:
        return _attached(text, asked.attachments)
    if text.startswith("{"):
        return codec.decode(text.encode(), commands.PipelineRequest)
    word, *rest = text.split() or [""]
    known = _WORDS.get(word.lower())
    if known is None:
        hint = diagnosis.near(word.lower(), _WORDS) or "`help` lists what can be said"
        raise NotUnderstood(f"{word[:80]!r} is none of the words that I know", hint)
    return known(rest)


def answer(data: bytes, max_bytes: int) -> Answer:
    """Read what is said to a gate. Raises codec.ProtocolError."""
    word, *comment = convention.read(data, max_bytes).prompt.split(maxsplit=1) or [""]
    if word.lower() not in {"approve", "deny"}:
        hint = "say `approve` or `deny`, with a comment after it if you like"
        raise NotUnderstood(f"{word[:80]!r} is no answer", hint)
    return Answer(word.lower() == "approve", "".join(comment).strip())


def _attached(text: str, files: list[convention.Attachment]) -> commands.PipelineRequest:
    if text.lower() != "run":
        raise NotUnderstood("only `run` takes an attachment", "say `run`, or attach nothing")
    if len(files) > 1:
        raise NotUnderstood("`run` takes one attachment", "attach one PipelineRequest")
    return codec.decode(files[0].content, commands.PipelineRequest)


def _run(_: list[str]) -> Order:
    hint = "attach it, or send the JSON itself as the prompt"
    raise NotUnderstood("`run` needs a PipelineRequest as an attachment", hint)


def _of_run(word: str, kind: type[Any], *, reason: bool = False) -> Callable[[list[str]], Order]:
    """Make the reader of a word that takes a run's id."""

    def read_one(words: list[str]) -> Order:
        if not words or (len(words) > 1 and not reason):
            raise NotUnderstood(f"`{word}` takes the id of a run", "`runs` lists them")
        given: dict[str, str] = {"run_id": words[0]}
        if "by" in kind.__struct_fields__:
            given["by"] = BY
        if reason:
            given["reason"] = " ".join(words[1:])
        return _converted(given, kind)

    return read_one


def _converted(given: dict[str, str], kind: type[Any]) -> Order:
    try:
        order: Order = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        hint = "`runs` lists them"
        raise NotUnderstood(f"{given['run_id'][:80]!r} is not the id of a run", hint) from error
    return order


def _alone(word: str, order: Order) -> Callable[[list[str]], Order]:
    """Make the reader of a word that takes nothing."""

    def read_one(words: list[str]) -> Order:
        if words:
            raise NotUnderstood(f"`{word}` takes nothing more", f"say `{word}`")
        return order

    return read_one


def _stages(words: list[str]) -> Order:
    if len(words) > 1:
        raise NotUnderstood("`stages` takes one prefix", "say `stages ingest.`")
    return commands.CatalogQuery(prefix=words[0] if words else "")


_WORDS: dict[str, Callable[[list[str]], Order]] = {
    "help": _alone("help", Help()),
    "run": _run,
    "follow": _of_run("follow", Follow),
    "status": _of_run("status", commands.RunQuery),
    "runs": _alone("runs", commands.RunListQuery(limit=MOST_RUNS)),
    "cancel": _of_run("cancel", commands.Cancel, reason=True),
    "resume": _of_run("resume", commands.Resume),
    "stages": _stages,
}
