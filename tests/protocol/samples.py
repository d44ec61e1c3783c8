"""Owns sample values of any Struct of the contract: the least that is needed, or all of it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from msgspec import inspect as mi

from protocol import commands

AT = dt.datetime(2026, 11, 23, 9, 0, 0, 123456, tzinfo=dt.UTC)
_STRINGS = {"sha256": "sha256:" + "0f" * 32, r"\.[^\s]": "score.f1_macro"}
_DEPTH = 4
"""How deep a sample repeats a Struct that holds itself."""


def minimal(kind: type[msgspec.Struct]) -> msgspec.Struct:
    return _struct(kind, full=False, depth=0)


def full(kind: type[msgspec.Struct]) -> msgspec.Struct:
    return _struct(kind, full=True, depth=0)


def _struct(kind: type[msgspec.Struct], *, full: bool, depth: int) -> msgspec.Struct:
    values = {}
    for field in msgspec.structs.fields(kind):
        if field.required or (full and depth < _DEPTH):
            told = mi.type_info(field.type)
            values[field.name] = _value(told, full=full, depth=depth + 1)
    if kind is commands.PipelineRequest:  # exactly one of the two
        values["template"] = None if full else "time-series-forecast"
    return kind(**values)


def _value(told: mi.Type, *, full: bool, depth: int) -> Any:
    def inner(one: mi.Type) -> Any:
        return _value(one, full=full, depth=depth)

    match told:
        case mi.Metadata():
            made = inner(told.type)
        case mi.StructType():
            made = _struct(told.cls, full=full, depth=depth)
        case mi.ListType():
            count = max(told.min_length or 0, 1 if full else 0)
            made = [inner(told.item_type) for _ in range(count)]
        case mi.DictType():
            made = {inner(told.key_type): inner(told.value_type)} if full else {}
        case mi.UnionType():
            made = inner(_chosen(told))
        case _:
            made = _scalar(told)
    return made


def _chosen(told: mi.UnionType) -> mi.Type:
    some = [one for one in told.types if not isinstance(one, mi.NoneType)]
    structs = [one for one in some if isinstance(one, mi.StructType)]
    return (structs or some)[0]


def _scalar(told: mi.Type) -> Any:
    made: Any
    match told:
        case mi.LiteralType():
            made = told.values[-1]
        case mi.StrType():
            pattern = told.pattern or ""
            made = next((text for part, text in _STRINGS.items() if part in pattern), "a")
        case mi.BoolType():
            made = True
        case mi.IntType():
            made = max(told.ge or 0, (told.gt or 0) + 1)
        case mi.FloatType():
            made = float(told.le if told.le is not None else (told.ge or 0) + 0.5)
        case mi.DateTimeType():
            made = AT
        case mi.AnyType():
            made = {"any": [1, 2.5, None, "ü"]}
        case _:
            raise NotImplementedError(told)
    return made
