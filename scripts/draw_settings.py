"""Owns docs/configuration.md's table: every setting with its default, written from the structs."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator

import msgspec

from agent import config, parameters

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"

HEAD = """# Configuration

Without any configuration the agent brings everything itself and keeps its data under `.mlpm`. What
is set comes from, the first wins:

1. flags: `mlpm up --set nats.url=nats://bus:4222` (again for more);
2. the environment: `MLPM_NATS__URL=nats://bus:4222` (two underscores for a dot);
3. a file: `--config FILE`, `MLPM_CONFIG=FILE`, or `mlpm.toml` in the working folder; TOML or YAML;
4. the defaults below.

An unknown key is refused, with its source and the key that was probably meant. Lists are
separated by commas in flags and in the environment; `null` there unsets. `mlpm config` (or
`mlpm up --print-config`) shows every effective value with its source, and hides users and passwords
inside URLs.

```toml
# mlpm.toml
data_dir = "/var/lib/mlpm"

[nats]
url = "tls://bus-1:4222,tls://bus-2:4222"
credentials = "/etc/mlpm/agent.creds"
replicas = 3

[ray]
address = "ray://cluster:10001"

[artifacts]
uri = "s3://models/mlpm"

[tracking]
uri = "https://mlflow.example"

[specialist]
embedded = false
```

## Settings
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Compose the page."""
    parts = [HEAD]
    own = [name for name in config.Settings.__struct_fields__ if not _room(name)]
    parts.append(_table("", config.Settings, own))
    for name in config.Settings.__struct_fields__:
        room = _room(name)
        if room is not None:
            about = " ".join((room.__doc__ or "").split())
            fields = list(room.__struct_fields__)
            parts.append(f"\n### {name}\n{about}\n\n{_table(f'{name}.', room, fields)}")
    return "\n".join(parts)


def _room(name: str) -> type[msgspec.Struct] | None:
    value = getattr(config.Settings(), name)
    return type(value) if isinstance(value, msgspec.Struct) else None


def _table(prefix: str, struct: type[msgspec.Struct], names: list[str]) -> str:
    rows = ["| setting | default | |", "|---|---|---|", *_rows(prefix, struct, names)]
    return "\n".join(rows) + "\n"


def _rows(prefix: str, struct: type[msgspec.Struct], names: Iterable[str]) -> Iterator[str]:
    default, told = struct(), parameters.field_docs(struct)
    for name in names:
        value = getattr(default, name)
        if isinstance(value, msgspec.Struct):
            yield from _rows(f"{prefix}{name}.", type(value), value.__struct_fields__)
        else:
            yield f"| `{prefix}{name}` | {_shown(value)} | {told.get(name, '')} |"


def _shown(value: object) -> str:
    if value is None or value in ("", (), {}):
        return ""
    return f"`{','.join(value)}`" if isinstance(value, tuple) else f"`{value}`"


if __name__ == "__main__":
    main()
