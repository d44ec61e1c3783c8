"""Owns what is drawn from `protocol/`: the schemas, the AsyncAPI document, the page's tables."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, get_args

from protocol import asyncapi, contract, problems, schema

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "protocol.md"
EXAMPLES = ROOT / "docs" / "examples" / "messages.json"
SCHEMAS = ROOT / "docs" / "schemas"
ASYNCAPI = ROOT / "docs" / "asyncapi.json"

_WIDTH = 110
_GENERATED = re.compile(r"(<!-- generated: ([a-z]+)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Write every file, and remove schemas of messages that are no more."""
    wanted = documents()
    for stale in set(SCHEMAS.glob("*.json")) - set(wanted):
        stale.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def documents() -> dict[pathlib.Path, str]:
    """Compose every file."""
    names = [*schema.structs(), *schema.UNIONS]
    return {
        **{SCHEMAS / f"{name}.json": _json(schema.schema(name)) for name in names},
        ASYNCAPI: _json(asyncapi.document(examples())),
        PAGE: page(PAGE.read_text(encoding="utf-8")),
    }


def examples() -> dict[str, Any]:
    """Read the examples, by the name of the message."""
    found: dict[str, Any] = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return found


def page(text: str) -> str:
    """Write the generated parts of the page anew; all else stays as it is."""
    return _GENERATED.sub(lambda m: f"{m[1]}{_PARTS[m[2]](m[3])}{m[4]}", text)


def _subjects(_: str | None) -> str:
    rows = ["| subject | who says → who hears | says → is answered | |", "|---|---|---|---|"]
    for one in contract.channels():
        said = _linked(one.bodies) if len(one.bodies) < len(contract.EVENTS) else _file("Event")
        answered = f" → {_linked(one.replies)}" if one.replies else ""
        kept = f"stream `{one.stream.name}` ({one.stream.retention})" if one.stream else ""
        notes = "; ".join(note for note in (kept, "" if one.served else "*reserved*") if note)
        who = f"{one.sender} → {one.receiver}"
        rows.append(f"| `{one.address}` | {who} | {said or 'anything'}{answered} | {notes} |")
    return "\n".join(rows) + "\n"


def _events(_: str | None) -> str:
    rows = ["| `type` | says | |", "|---|---|---|"]
    for kind in contract.EVENTS:
        about = (kind.__doc__ or "").splitlines()[0]
        rows.append(f"| `{kind.__struct_config__.tag}` | {about} | {_linked((kind,))} |")
    return "\n".join(rows) + "\n"


def _codes(_: str | None) -> str:
    return ", ".join(f"`{code}`" for code in get_args(problems.Code)) + ".\n"


def _headers(which: str | None) -> str:
    channel = next(one for one in contract.channels() if one.name == which)
    rows = ["| header | |", "|---|---|"]
    rows += [f"| `{header.name}` | {header.about} |" for header in channel.headers]
    return "\n".join(rows) + "\n"


def _example(name: str | None) -> str:
    return f"```json\n{_compact(examples()[name or ''])}\n```\n"


def _announced(name: str | None) -> str:
    headers = asyncapi.event_headers(examples()[name or ""])
    lines = [f"{key}: {value}" for key, value in headers.items()]
    return "```\n" + "\n".join(lines) + "\n```\n"


def _linked(kinds: tuple[contract.Body, ...]) -> str:
    return ", ".join(_file(schema.name_of(kind)) for kind in kinds)


def _file(name: str) -> str:
    return f"[{name}](schemas/{name}.json)"


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _compact(value: Any, indent: int = 0) -> str:
    """Write JSON with what is short on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= _WIDTH or not isinstance(value, list | dict):
        return line
    start, end = "{}" if isinstance(value, dict) else "[]"
    pairs = value.items() if isinstance(value, dict) else ((None, one) for one in value)
    parts = []
    for key, one in pairs:
        name = "" if key is None else f"{json.dumps(key, ensure_ascii=False)}: "
        parts.append(" " * (indent + 2) + name + _compact(one, indent + 2))
    return start + "\n" + ",\n".join(parts) + "\n" + " " * indent + end


_PARTS: dict[str, Callable[[str | None], str]] = {
    "subjects": _subjects,
    "events": _events,
    "codes": _codes,
    "headers": _headers,
    "example": _example,
    "announced": _announced,
}

if __name__ == "__main__":
    main()
