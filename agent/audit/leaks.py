"""Owns telling a secret by its form or by its name. What is found is never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_NAMES = re.compile(
    r"(^|[_.-])(pass(word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|credentials?|authorization|bearer)s?$",
    re.IGNORECASE,
)
_REFERENCE = frozenset({"env", "file", "kv"})
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a password in a URL", re.compile(r"\w+://[^/\s:@]*:[^/\s:@]+@")),
    ("a token in a URL", re.compile(r"\b(nats|tls|wss?)://[^/\s:@]{16,}@")),
    (
        "a credential in a URL's query",
        re.compile(
            r"://\S*[?&]([\w-]*(token|secret|signature|passw(or)?d|api[_-]?key)|sig|key)=[^&\s]{6,}",
            re.IGNORECASE,
        ),
    ),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("an nkey seed", re.compile(r"\bS[ACNOPUX][A-Z2-7]{56}\b")),
    ("a JSON Web Token", re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")),
    ("an AWS access key", re.compile(r"\b(AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\b(gh[pousr]_\w{36,}|github_pat_\w{22,})")),
    ("a Slack token", re.compile(r"\bxox[abeoprs]-[\w-]{10,}")),
    ("a Google API key", re.compile(r"\bAIza[\w-]{35}\b")),
    ("an API key", re.compile(r"\bsk-[\w-]{20,}")),
    ("an authorization header", re.compile(r"\b(Bearer|Basic) [\w+/=.~-]{12,}")),
)


def in_text(text: str) -> str | None:
    """Say what secret a text holds, if it does."""
    return next((what for what, form in _FORMS if form.search(text)), None)


def in_data(data: Any, path: str = "$", name: str = "") -> Iterator[tuple[str, str]]:
    """List the places of plain data that hold a secret, and what it seems to be."""
    if isinstance(data, dict):
        if data and data.keys() <= _REFERENCE:
            return  # it says where a secret is kept
        for key, value in data.items():
            yield from in_data(value, f"{path}.{key}", str(key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from in_data(value, f"{path}[{index}]", name)
    elif isinstance(data, str) and data:
        if what := in_text(data):
            yield path, what
        elif _NAMES.search(name):
            yield path, f"something named {name!r}"
