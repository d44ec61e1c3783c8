"""Owns the reading of request files: a PipelineRequest, or a pipeline alone, in YAML or JSON."""

from __future__ import annotations

import getpass
import json
import pathlib
import re
import secrets
import sys
from typing import Any

from agent.cli import console

REQUEST_KEYS = {"pipeline", "template", "params", "options", "request_id", "requester"}


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read a request as plain data; `-` reads standard input.

    A file that is a pipeline itself is wrapped; request id and requester are filled in.
    """
    data = _parse(path, _text(path))
    if not isinstance(data, dict):
        console.stop("invalid_field", f"{path} holds no pipeline: it is not a mapping", path="$")
    request = {"pipeline": data} if "stages" in data and "pipeline" not in data else dict(data)
    request.setdefault("request_id", f"cli-{secrets.token_hex(6)}")
    request.setdefault("requester", f"cli-{_token(getpass.getuser())}")
    return request


def _text(path: pathlib.Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        console.stop("not_found", f"{path} cannot be read: {error}")


def _parse(path: pathlib.Path, text: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            console.stop("invalid_json", f"{path}: {error}")
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        console.stop("invalid_json", f"{path} is not YAML: {error}")


def _token(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:32] or "user"
