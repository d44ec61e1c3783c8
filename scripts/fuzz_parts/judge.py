"""Owns what a good answer is: one that the contract's own types decode, with a code of the list."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from agent.bus import endpoints
from protocol import codec, commands, problems, subjects
from scripts.fuzz_parts import messages, raw

NOBODY = "503"
_CODE = "Nats-Service-Error-Code"


class Verdict(msgspec.Struct, frozen=True):
    """What an answer was, in a word, and what is wrong with it."""

    outcome: str
    wrong: str = ""
    code: str = ""


def judge(sent: messages.Message, heard: raw.Heard) -> Verdict:
    """Judge an answer, or a chunk of one that has many."""
    try:
        return chunk(heard) if sent.answer == "stream" else _judged(sent, heard)
    except (ValueError, LookupError) as error:
        return Verdict("unreadable", f"the answer cannot be read: {type(error).__name__}")


def _judged(sent: messages.Message, heard: raw.Heard) -> Verdict:
    if heard.status == NOBODY:
        expected = sent.answer == "any"
        return Verdict("nobody there", "" if expected else "nobody was there to answer")
    if sent.answer == "ack":
        return _ack(heard)
    if sent.target == "service.ping":
        known = json.loads(heard.body)["name"] == subjects.SERVICE
        return Verdict("ok", "" if known else "another service answered")
    return _reply(sent, heard) if sent.answer == "reply" else Verdict("answered")


def chunk(heard: raw.Heard) -> Verdict:
    """Judge a chunk of a stream; only its end is empty."""
    if heard.status == NOBODY:
        return Verdict("nobody there", "nobody was there to answer")
    refused = heard.header(_CODE)
    if refused == "500":
        return Verdict("internal", "answered internal")
    if refused is not None:
        return Verdict(f"refused {refused}")
    json.loads(heard.body)
    return Verdict("ok")


def _ack(heard: raw.Heard) -> Verdict:
    told = json.loads(heard.body)
    if "error" in told:
        return Verdict(f"bus refused {told['error'].get('err_code')}")
    return Verdict("duplicate" if told.get("duplicate") else "stored")


def _reply(sent: messages.Message, heard: raw.Heard) -> Verdict:
    refused = heard.header(_CODE)
    kinds: tuple[Any, ...] = messages.gives(sent.target) if refused is None else (problems.Problem,)
    try:
        told = codec.decode(heard.body, kinds[0], heard.header(subjects.CONTENT_TYPE))
    except codec.ProtocolError as error:
        return Verdict("unreadable", f"the answer is not of the contract: {error}")
    if isinstance(told, problems.Problem):
        return _problem(told, refused or "")
    if isinstance(told, commands.ValidationReport):
        return _report(told)
    return Verdict("ok")


def _problem(told: problems.Problem, number: str) -> Verdict:
    found = [told, *told.problems]
    if any(one.code == "internal" for one in found):
        return Verdict("internal", "answered internal")
    if number != str(endpoints.number(told)):
        return Verdict(told.code, f"{told.code} came with the number {number}")
    return Verdict(told.code)


def _report(told: commands.ValidationReport) -> Verdict:
    if told.ok == bool(told.problems):
        return Verdict("report", "a report is good and has problems, or neither")
    if any(one.code == "internal" for one in told.problems):
        return Verdict("internal", "reported internal")
    return Verdict("ok" if told.ok else f"report: {told.problems[0].code}")
