"""Owns what explains the HTTP of a serving host: an OpenAPI document, and a page for people."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.serving import inputs, replica
from protocol import codec, problems, serving

Served = Mapping[str, tuple[str, replica.About]]
_REF = "#/components/schemas/{name}"
_PAGE = """<!doctype html><meta charset="utf-8"><title>Models</title>
<style>body{{font:15px system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}}
pre{{background:#f4f4f4;padding:.8rem;overflow:auto}}
td,th{{text-align:left;padding:.1rem 1rem .1rem 0}}
</style><h1>Models</h1><p>The API as a document: <a href="/openapi.json">openapi.json</a>;
health: <a href="/healthz">healthz</a>.</p>{models}
"""
_MODEL = """<h2>{name}</h2><p>Version {version}: {estimator}, {task} of {target}.</p>
<pre>curl {url}v1/models/{name}:predict -d '{body}'</pre>
<table><tr><th>column<th>type</tr>{columns}</table>"""
_EXAMPLES = {"string": "", "number": 0.0, "integer": 0, "boolean": False}
_DATES = {"date-time": "2026-01-01T00:00:00", "date": "2026-01-01"}


def document(served: Served, url: str) -> dict[str, Any]:
    """Compose the OpenAPI document of what is served."""
    _, shared = msgspec.json.schema_components(
        [serving.Predicted, serving.Outcome, serving.OutcomeTaken, problems.Problem],
        ref_template=_REF,
    )
    schemas: dict[str, Any] = dict(shared)
    paths: dict[str, Any] = {"/healthz": {"get": _health()}}
    for name, (version, about) in served.items():
        schemas |= _asked(name, about.schema)
        paths[f"/v1/models/{name}:predict"] = {"post": _predict(name, version, about)}
        paths[f"/v1/models/{name}:outcome"] = {"post": _outcome(name)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Deployed models", "version": "1"},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {"schemas": schemas},
    }


def page(served: Served, url: str) -> str:
    """Write the page."""
    models = [_section(name, *known, url) for name, known in served.items()]
    return _PAGE.format(models="".join(models) or "<p>No model is deployed.</p>")


def example(about: replica.About) -> dict[str, Any]:
    """Give a row that a model takes, in its types."""
    properties = about.schema["$defs"]["Row"]["properties"]
    return {name: _value(kind) for name, kind in properties.items()}


def _value(kind: dict[str, Any]) -> Any:
    first = kind.get("anyOf", [kind])[0]
    return _DATES.get(first.get("format", "")) or _EXAMPLES.get(first.get("type", ""), 0)


def _asked(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Give the schemas of a model's requests under names of their own."""
    text = msgspec.json.encode(schema.get("$defs", {})).decode()
    for kind in ("Row", "Predict"):
        text = text.replace(
            f'"#/components/schemas/{kind}"', f'"#/components/schemas/{kind}-{name}"'
        )
    return {f"{kind}-{name}": body for kind, body in msgspec.json.decode(text).items()}


def _predict(name: str, version: str, about: replica.About) -> dict[str, Any]:
    card = about.card
    assert card is not None
    text = {"schema": {"type": "string"}}
    header = {serving.MODEL_VERSION: text, serving.PREDICTION_ID: text}
    parameter = {"name": serving.ASSIGNMENT_KEY, "in": "header", "required": False, **text}
    body: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/Predict-{name}"}}
    body["example"] = {"row": example(about)}
    return {
        "operationId": f"predict-{name}",
        "summary": f"{card.task} of {card.target} by {card.estimator}, version {version}",
        "parameters": [parameter],
        "requestBody": {"required": True, "content": {codec.JSON: body, inputs.ARROW: {}}},
        "responses": {
            "200": {
                "description": "what the model predicts",
                "headers": header,
                **_of("Predicted"),
            },
            "4XX": {"description": "what is wrong with the request", **_of("Problem")},
            "5XX": {"description": "try again", **_of("Problem")},
        },
    }


def _outcome(name: str) -> dict[str, Any]:
    return {
        "operationId": f"outcome-{name}",
        "summary": "Tell what came of a prediction, while two versions are compared",
        "requestBody": {"required": True, **_of("Outcome")},
        "responses": {
            "200": {"description": "it was taken", **_of("OutcomeTaken")},
            "4XX": {"description": "what is wrong with it", **_of("Problem")},
        },
    }


def _of(kind: str) -> dict[str, Any]:
    return {"content": {codec.JSON: {"schema": {"$ref": f"#/components/schemas/{kind}"}}}}


def _health() -> dict[str, Any]:
    told = {"200": {"description": "all models serve"}, "503": {"description": "some start yet"}}
    return {"operationId": "health", "summary": "Whether all models serve", "responses": told}


def _section(name: str, version: str, about: replica.About, url: str) -> str:
    card = about.card
    assert card is not None
    rows = [f"<tr><td>{html.escape(c.name)}<td>{html.escape(c.type)}</tr>" for c in card.columns]
    body = msgspec.json.encode({"row": example(about)}).decode()
    said = {"name": name, "version": version, "url": url, "body": body}
    said |= {"estimator": card.estimator, "task": card.task, "target": card.target}
    escaped = {key: html.escape(text) for key, text in said.items()}
    return _MODEL.format(columns="".join(rows), **escaped)
