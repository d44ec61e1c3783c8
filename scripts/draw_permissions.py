"""Owns docs/permissions.md: who may say and hear what on a locked bus, written from the table."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from protocol import accounts, permissions, subjects

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "permissions.md"

HEAD = """# Permissions on the bus

Who may say and hear what, as a NATS server holds everybody to it. This page is written from
`protocol/permissions.py` (`make docs`); [security.md](security.md) says how to lock a server.

`mlpm permissions --key agent=U… --key operator=U… > accounts.conf` prints the whole as a part of a
nats-server's configuration, `mlpm permissions ROLE` one role, `--format json` the same as claims
for JWTs. Everything is a list of what is allowed; whatever is not listed is refused.

- The **agents**, and what works for them, are in the account `{inside}`, where the streams are.
  Each role outside has an account of its own, with imports of just what it may say and hear: NATS
  checks where a message goes and not where its answer is wanted, so inside one account anybody
  could have an answer sent to a journal.
- Replies come to `_INBOX.<role>.>`, and no other role may listen there. In Python the client says
  so by itself (`credentials.Credentials(inbox=…)`, `nats.inbox`); other clients set their inbox
  prefix. `--key orchestrator:ada=U…` makes a user of a role with an inbox of its own, `_INBOX.ada`.
- What outside asks of the JetStream API is led to the agents' account by a mapping; clients name
  the usual subjects.
"""


EXTRAS = """## Beyond the least
Not every deployment needs these, and each lets somebody do more; say which of them you need, as
`mlpm permissions --objects --key …`. Inside the agents' account whoever asks can have the answer
sent to any subject, so that each grant to workers and specialists is one of trust in the stages
that they run.
"""
REPLAYS = """Operators use `mlpm dead replay`; to list, show and drop letters takes nothing more.
Who may send again what others said may ask for runs."""
OPTIONS = {
    "--reads STREAM": ("Pipelines use `ingest.stream`.", {"reads": ("STREAM",)}),
    "--secrets": ("Requests refer to secrets as `kv: KEY`.", {"secrets": True}),
    "--objects": (
        "Artifacts are on the bus: `artifacts.uri` is `nats-objects:`.",
        {"objects": True},
    ),
    "--replays": (REPLAYS, {"replays": True}),
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Compose the page."""
    names = subjects.Subjects()
    parts = [HEAD.format(inside=permissions.INSIDE)]
    parts += ["\n".join(_told(role)) for role in permissions.table(names)]
    parts.append(EXTRAS)
    for option, (about, chosen) in OPTIONS.items():
        parts.append(f"### {option}\n{about}\n")
        parts += _added(names, permissions.Extras(**chosen))
    return "\n".join(parts)


def _added(names: subjects.Subjects, extras: permissions.Extras) -> Iterator[str]:
    least = permissions.table(names)
    for one, more in zip(least, permissions.table(names, extras), strict=True):
        says = [accounts.local(more, each) for each in more.publish if each not in one.publish]
        hears = [each for each in more.subscribe if each not in one.subscribe]
        yield from _list(f"The role {one.name} may publish to", says)
        yield from _list("and subscribe to", hears)


def _told(role: permissions.Role) -> Iterator[str]:
    yield f"## {role.name}\n{role.about} Account `{role.account}`.\n"
    yield from _list("May publish to", [accounts.local(role, each) for each in role.publish])
    yield from _list("May subscribe to", list(role.subscribe))
    if role.answers:
        often = "any number of times" if role.answers.most < 0 else f"{role.answers.most} time(s)"
        hours = role.answers.within_s / 3600
        yield f"May answer what it is asked, {often} within {hours:g} h, where the question says.\n"


def _list(title: str, listed: list[str]) -> Iterator[str]:
    if listed:
        yield f"{title}:\n"
        yield "```\n" + "\n".join(listed) + "\n```\n"


if __name__ == "__main__":
    main()
