"""Owns the contract as an AsyncAPI 3 document, seen from the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from protocol import cloudevents, codec, contract, events, problems, schema, subjects

SPECIFICATION = "3.0.0"
_DESCRIPTION = (
    "What the ML-Pipeline-Manager says and is asked over NATS. Operations are the agent's: what it "
    "*receives*, others send. JetStream, which AsyncAPI's NATS binding does not know, is told in "
    "`x-jetstream`; `x-reserved` marks what is fixed in form but not served yet."
)
_INBOX = "replies"

Examples = Mapping[str, Any]
"""A body by the name of its message."""


def document(examples: Examples, names: subjects.Subjects | None = None) -> dict[str, Any]:
    """Compose the document; `examples` are shown with the messages."""
    table = contract.channels(names)
    return {
        "asyncapi": SPECIFICATION,
        "info": {
            "title": "ML-Pipeline-Manager",
            "version": contract.VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": codec.JSON,
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": {
            **{one.name: _channel(one, examples) for one in table},
            _INBOX: _inbox(table, examples),
        },
        "operations": {
            f"{action}.{one.name}": _operation(one, action)
            for one in table
            for action in one.actions
        },
        "components": {"schemas": schema.components("#/components/schemas/{name}")},
    }


def _channel(one: contract.Channel, examples: Examples) -> dict[str, Any]:
    parameters = {
        name: _parameter(name, about)
        for name, about in contract.PARAMETERS.items()
        if f"{{{name}}}" in one.address
    }
    bodies = {schema.name_of(kind): kind for kind in one.bodies}
    messages = {name: _message(name, kind, one.headers, examples) for name, kind in bodies.items()}
    return {
        "address": one.address,
        "summary": one.about,
        "messages": messages or {"Any": _anything(one.headers)},
        **({"parameters": parameters} if parameters else {}),
        **_extensions(one),
    }


def _parameter(name: str, about: str) -> dict[str, Any]:
    allowed = {"severity": list(contract.SEVERITIES), "type": sorted(_event_tokens())}
    return {"description": about, **({"enum": allowed[name]} if name in allowed else {})}


def _event_tokens() -> set[str]:
    return {_tag(kind).rpartition(".")[2] for kind in contract.EVENTS}


def _extensions(one: contract.Channel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if one.stream is not None:
        found["x-jetstream"] = msgspec.to_builtins(one.stream)
    if not one.served:
        found["x-reserved"] = True
    return found


def _message(
    name: str,
    kind: contract.Body,
    headers: tuple[contract.Header, ...],
    examples: Examples,
) -> dict[str, Any]:
    fixed = {"ce-type": cloudevents.TYPE_PREFIX + _tag(kind)} if kind in contract.EVENTS else {}
    return {
        "name": name,
        "summary": (kind.__doc__ or "").splitlines()[0],
        "headers": _headers((contract.CONTENT_TYPE, *headers), fixed),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        **_shown(name, kind, headers, examples),
    }


def _anything(headers: tuple[contract.Header, ...]) -> dict[str, Any]:
    about = "A message as it came, with the headers that it had."
    return {"name": "Any", "summary": about, "headers": _headers(headers, {}), "payload": {}}


def _headers(given: tuple[contract.Header, ...], fixed: dict[str, str]) -> dict[str, Any]:
    properties = {}
    for header in given:
        properties[header.name] = {"type": "string", "description": header.about}
        value = fixed.get(header.name, header.value)
        if value is not None:
            properties[header.name]["const"] = value
    required = [header.name for header in given if header.required]
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _shown(
    name: str,
    kind: contract.Body,
    headers: tuple[contract.Header, ...],
    examples: Examples,
) -> dict[str, Any]:
    if name not in examples:
        return {}
    shown: dict[str, Any] = {"payload": examples[name]}
    if kind in contract.EVENTS and headers:
        shown["headers"] = event_headers(examples[name])
    return {"examples": [shown]}


def event_headers(body: Any) -> dict[str, str]:
    """Give the headers that an event would be announced with, as the first of its run."""
    union: Any = events.AnyEvent
    event = msgspec.convert(body, union)
    commit = events.Commit(
        run_id=getattr(event, "run_id", "run-1"),
        number=1,
        epoch=1,
        owner="agent-1",
        at=event.at,
        previous="",
        events=[event],
    )
    return cloudevents.write(commit, 0)[0]


def _inbox(table: list[contract.Channel], examples: Examples) -> dict[str, Any]:
    kinds = {kind for one in table for kind in contract.reply_bodies(one)}
    found = sorted(((schema.name_of(kind), kind) for kind in kinds), key=lambda one: one[0])
    return {
        "address": None,
        "summary": "The subject that the request names as its reply subject.",
        "messages": {
            name: _message(
                name, kind, contract.ERRORS if kind is problems.Problem else (), examples
            )
            for name, kind in found
        },
    }


def _operation(one: contract.Channel, action: contract.Action) -> dict[str, Any]:
    names = [schema.name_of(kind) for kind in one.bodies] or ["Any"]
    made: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{one.name}"},
        "summary": one.about,
        "messages": [{"$ref": f"#/channels/{one.name}/messages/{name}"} for name in names],
    }
    if one.replies:
        replies = [schema.name_of(kind) for kind in contract.reply_bodies(one)]
        made["reply"] = {
            "channel": {"$ref": f"#/channels/{_INBOX}"},
            "messages": [{"$ref": f"#/channels/{_INBOX}/messages/{name}"} for name in replies],
        }
    if one.queue is not None:
        made["bindings"] = {"nats": {"queue": one.queue}}
    return made


def _tag(kind: contract.Body) -> str:
    return str(kind.__struct_config__.tag)
