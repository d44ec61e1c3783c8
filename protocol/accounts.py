"""Owns how roles are written down for a nats-server: as its configuration, and as JWT claims."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from protocol import permissions

KEY = "REPLACE-BY-THE-PUBLIC-NKEY"
_API = "$JS.API.STREAM."
_ELSEWHERE = f"${permissions.INSIDE}.API.STREAM."
"""What outside asks of JetStream is asked under this name, since each account has its own JetStream
under the other: a mapping leads there, so that no client knows of it."""


class User(msgspec.Struct, frozen=True):
    """Somebody with a role."""

    role: permissions.Role
    nkey: str
    """The public key; whoever has its seed is this user."""


class Account(msgspec.Struct, frozen=True):
    """One account: its users, and what they may say and hear of the account of the agents."""

    name: str
    users: tuple[User, ...]

    @property
    def services(self) -> list[str]:
        """List what is asked or said here and heard by the agents."""
        return _once(subject for user in self.users for subject in user.role.publish)

    @property
    def streams(self) -> list[str]:
        """List what the agents say and is heard here."""
        heard = (subject for user in self.users for subject in user.role.subscribe)
        return _once(subject for subject in heard if not subject.startswith("_INBOX."))


def local(role: permissions.Role, subject: str) -> str:
    """Give what a subject that a role says is called in its account."""
    outside = role.account != permissions.INSIDE
    return subject.replace(_API, _ELSEWHERE, 1) if outside else subject


def configuration(users: Sequence[User]) -> str:
    """Write the accounts of a nats-server's configuration."""
    accounts = _accounts(users)
    text = ["accounts {"]
    for account in accounts:
        text += [f"  {account.name} {{", *_body(account, accounts), "  }"]
    return "\n".join([*text, "}", ""])


def user(one: User) -> str:
    """Write a user with its permissions, as it stands in an account."""
    return "\n".join(_user(one, "")) + "\n"


def claims(role: permissions.Role) -> dict[str, Any]:
    """Give the permissions of a user's JWT (`nats` in its claims), and its account."""
    told: dict[str, Any] = {
        "role": role.name,
        "account": role.account,
        "pub": {"allow": [local(role, each) for each in role.publish]} if role.publish else {},
        "sub": {"allow": list(role.subscribe)},
    }
    if role.answers:
        told["resp"] = {"max": role.answers.most, "ttl": int(role.answers.within_s * 1e9)}
    return told


def trade(users: Sequence[User]) -> dict[str, Any]:
    """Give the exports and imports of the accounts' JWTs."""
    accounts = _accounts(users)
    outside = [one for one in accounts if one.name != permissions.INSIDE]
    exports = [_export(subject, "service") for subject in _once(_each(outside, "services"))]
    exports += [_export(subject, "stream") for subject in _once(_each(outside, "streams"))]
    return {permissions.INSIDE: {"exports": exports}} | {
        one.name: {"imports": list(_taken(one)), "mappings": _mappings(one)} for one in outside
    }


def _taken(account: Account) -> Iterator[dict[str, Any]]:
    source = {"account": permissions.INSIDE}
    for subject in account.services:
        named = local(account.users[0].role, subject)
        yield source | {"subject": subject, "type": "service", "local_subject": named}
    for subject in account.streams:
        yield source | {"subject": subject, "type": "stream"}


def _mappings(account: Account) -> dict[str, str]:
    role = account.users[0].role
    return {each: local(role, each) for each in account.services if local(role, each) != each}


def _export(subject: str, kind: str) -> dict[str, Any]:
    told = {"subject": subject, "type": kind}
    many = kind == "service" and permissions.many_answers(subject)
    return told | ({"response_type": "Stream"} if many else {})


def _accounts(users: Sequence[User]) -> list[Account]:
    names = _once([permissions.INSIDE, *(one.role.account for one in users)])
    return [Account(name, tuple(u for u in users if u.role.account == name)) for name in names]


def _body(account: Account, accounts: Sequence[Account]) -> Iterator[str]:
    inside = account.name == permissions.INSIDE
    if inside:
        yield "    jetstream: enabled"
    else:
        yield "    mappings: {"
        for subject, named in _mappings(account).items():
            yield f"      {_text(subject)}: {_text(named)}"
        yield "    }"
    yield "    users: ["
    for one in account.users:
        yield from _user(one, "      ")
    yield "    ]"
    yield "    exports: [" if inside else "    imports: ["
    yield from _exports(accounts) if inside else _imports(account)
    yield "    ]"


def _exports(accounts: Sequence[Account]) -> Iterator[str]:
    outside = [one for one in accounts if one.name != permissions.INSIDE]
    for subject in _once(_each(outside, "services")):
        takers = ", ".join(one.name for one in outside if subject in one.services)
        many = ", response_type: stream" if permissions.many_answers(subject) else ""
        yield f"      {{ service: {_text(subject)}{many}, accounts: [{takers}] }}"
    for subject in _once(_each(outside, "streams")):
        takers = ", ".join(one.name for one in outside if subject in one.streams)
        yield f"      {{ stream: {_text(subject)}, accounts: [{takers}] }}"


def _imports(account: Account) -> Iterator[str]:
    for one in _taken(account):
        source = f"account: {one['account']}, subject: {_text(one['subject'])}"
        named = one.get("local_subject", one["subject"])
        to = f", to: {_text(named)}" if named != one["subject"] else ""
        yield f"      {{ {one['type']}: {{ {source} }}{to} }}"


def _user(one: User, indent: str) -> Iterator[str]:
    role = one.role
    yield f"{indent}{{ # {role.name}: {role.about}"
    yield f"{indent}  nkey: {_text(one.nkey)}"
    yield f"{indent}  permissions: {{"
    for verb, subjects in (("publish", role.publish), ("subscribe", role.subscribe)):
        if subjects:
            yield f"{indent}    {verb}: {{ allow: ["
            yield from (f"{indent}      {_text(local(role, each))}" for each in subjects)
            yield f"{indent}    ] }}"
    if role.answers:
        answers = role.answers
        within = f"{answers.within_s:.0f}s"
        yield f'{indent}    allow_responses: {{ max: {answers.most}, expires: "{within}" }}'
    yield f"{indent}  }}"
    yield f"{indent}}}"


def _each(accounts: Iterable[Account], kind: str) -> Iterator[str]:
    for account in accounts:
        yield from getattr(account, kind)


def _once(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _text(subject: str) -> str:
    return json.dumps(subject)
