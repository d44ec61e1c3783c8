"""Owns docs/stages.md and docs/templates.md: what pipelines are made of, written from the code."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterable
from typing import Any

from agent import catalog, parameters, templates
from protocol import commands

ROOT = pathlib.Path(__file__).parent.parent
STAGES = ROOT / "docs" / "stages.md"
TEMPLATES = ROOT / "docs" / "templates.md"

STAGES_HEAD = """# Stages

What a pipeline can be made of. Written from the code (`make docs`); `mlpm stages NAME` says the
same in a terminal, and the agent answers it on `codeguardian.ml.stage.catalog` as JSON Schema.
A port with `?` may be left out, one with `*` takes a list. To add a stage, see
[adding-a-stage.md](adding-a-stage.md).
"""
TEMPLATES_HEAD = """# Templates

A request may name a template instead of listing stages: the agent looks at the data and designs the
pipeline itself; the `run.accepted` event carries what it designed. Written from the code
(`make docs`); `mlpm templates NAME` says the same in a terminal.
"""


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[pathlib.Path, str]:
    """Compose both pages."""
    rooms = itertools.groupby(catalog.Catalog().cards(), key=lambda card: card.name.split(".")[0])
    stages = [_room(name, cards) for name, cards in rooms]
    designs = [_part(f"## {card.name}", "", card.params) for card in templates.cards()]
    return {
        STAGES: "\n".join([STAGES_HEAD, *stages]),
        TEMPLATES: "\n".join([TEMPLATES_HEAD, *designs]),
    }


def _room(name: str, cards: Iterable[commands.StageCard]) -> str:
    parts = [_part(f"### {card.name}", _ports(card), card.params) for card in cards]
    return "\n".join([f"## {name}\n", *parts])


def _ports(card: commands.StageCard) -> str:
    kept = "" if card.cacheable else "; never taken from the cache"
    return f"Takes {_listed(card.inputs) or 'nothing'}; gives {_listed(card.outputs)}{kept}.\n"


def _listed(ports: list[commands.Port]) -> str:
    return ", ".join(
        f"`{port.name}{'*' * port.many}{'?' * port.optional}` ({port.kind})" for port in ports
    )


def _part(heading: str, ports: str, schema: dict[str, Any]) -> str:
    rows = ["| parameter | type | default | |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {_cell(each.type)} | {_default(each.default)} | {_cell(each.about)} |"
        for each in parameters.listed(schema)
    ]
    table = "\n".join(rows) + "\n" if len(rows) > 2 else "No parameters.\n"  # noqa: PLR2004 - the head
    said = parameters.about(schema)
    return "\n".join(filter(None, [f"{heading}\n", f"{said}\n", ports, table]))


def _default(text: str) -> str:
    return f"`{_cell(text)}`" if text else "*required*"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
