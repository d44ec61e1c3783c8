"""Owns who asks: whose signature a command carries, that it was used once, and what its key may."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from agent import config, rights
from agent.bus import endpoints
from protocol import pipelines, problems, signing, subjects

DEPLOYS = "deploy."
"""What the kinds of stages that put a model to work begin with."""
RIGHTS = {"queue": "submit", "deny": "approve", "rollback": "deploy", "undeploy": "deploy"}
"""The right that an action takes, where it has another name."""

_WRONG_SEQUENCE = 10071
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class NotAuthorized(endpoints.Refusal):
    """A command is not its sender's to give."""

    def __init__(self, message: str, hint: str, path: str | None = None) -> None:
        super().__init__(problems.Problem("not_authorized", message, path=path, hint=hint))


class Unsigned(NotAuthorized):
    """A signature is demanded, and there is none."""

    def __init__(self, action: str, path: str | None = None) -> None:
        hint = "sign with a trusted key: `mlpm --sign-with FILE`, or `signing_key` of the client"
        super().__init__(f"{action!r} takes a signature here", hint, path)


class NotPermitted(NotAuthorized):
    """A key may ask for other things only."""

    def __init__(self, name: str, action: str, path: str | None = None) -> None:
        hint = f"`security.trusted_keys` of the agent would have to name {action!r} for this key"
        super().__init__(f"the key of {name!r} may not {action}", hint, path)


class Unreadable(NotAuthorized):
    """The header is none."""

    def __init__(self, error: signing.Malformed) -> None:
        super().__init__(str(error), "docs/signing.md shows what it looks like")


class UnknownKey(NotAuthorized):
    """Nobody is known by the key."""

    def __init__(self, key: str) -> None:
        hint = "have its public half added to `security.trusted_keys` of the agent"
        super().__init__(f"the key {key} is not trusted here", hint)


class Stale(NotAuthorized):
    """The signature is of another time."""

    def __init__(self, off_s: float, window_s: float) -> None:
        when = "in the future" if off_s < 0 else "ago"
        hint = "sign each message when it is sent; set the clock if it was"
        super().__init__(f"signed {abs(off_s):.0f} s {when}; {window_s:g} s are allowed", hint)


class SignedForAnother(NotAuthorized):
    """The signature is for another subject."""

    def __init__(self, subject: str) -> None:
        super().__init__("the signature is for another subject", f"sign for {subject}")


class Tampered(NotAuthorized):
    """The signature does not fit what it came with."""

    def __init__(self) -> None:
        hint = "sign the very bytes that are sent, and change nothing after that"
        super().__init__("the signature does not fit the message", hint)


class Replayed(NotAuthorized):
    """The very same signature has been used."""

    def __init__(self) -> None:
        super().__init__("this signature has been used before", "sign each message anew")


class Senders:
    """Knows the senders of commands."""

    def __init__(
        self,
        nc: Client,
        names: subjects.Subjects,
        settings: config.Security,
        clock: Callable[[], dt.datetime],
    ) -> None:
        self._js = nc.jetstream()
        self._names = names
        self._trusted = rights.read(settings.trusted_keys)
        self._demanded = frozenset(settings.require_signatures)
        self._window_s = settings.signature_window_s
        self._clock = clock

    async def identified(
        self, message: Any, caller: endpoints.Caller, *, stored_at: dt.datetime | None = None
    ) -> endpoints.Caller:
        """Say who signed a message; raise NotAuthorized where a signature does not hold.

        Where no key is trusted no signature is looked at. A stored message may have waited: its
        signature must have been fresh when it was stored, and it may come again.
        """
        value = (message.headers or {}).get(subjects.SENDER)
        sender = self._read(value) if value and self._trusted else None
        if sender is None or sender.sig is None:
            return caller
        self._check(sender, message, stored_at or self._clock())
        if stored_at is None:
            await self._take_nonce(sender)
        name = self._trusted[sender.user].name
        return msgspec.structs.replace(caller, signed_by=name, key=sender.user)

    def permit(self, action: str, caller: endpoints.Caller, path: str | None = None) -> None:
        """Raise NotAuthorized unless a caller may ask for an action."""
        right = RIGHTS.get(action, action)
        if caller.key is None:
            if right in self._demanded:
                raise Unsigned(right, path)
            return
        trusted = self._trusted[caller.key]
        if not trusted.may(right):
            raise NotPermitted(trusted.name, right, path)

    def permit_stages(self, pipeline: pipelines.Pipeline, caller: endpoints.Caller) -> None:
        """Raise NotAuthorized where a pipeline has stages that a caller may not have run."""
        for place, stage in enumerate(pipeline.stages):
            if stage.use.startswith(DEPLOYS):
                self.permit("deploy", caller, f"$.pipeline.stages[{place}].use")

    @staticmethod
    def _read(value: str) -> signing.Sender | None:
        try:
            return signing.parse(value)
        except signing.Malformed as error:
            raise Unreadable(error) from error

    def _check(self, sender: signing.Sender, message: Any, now: dt.datetime) -> None:
        if sender.user not in self._trusted:
            raise UnknownKey(sender.user)
        off_s = (now - sender.at).total_seconds()
        if abs(off_s) > self._window_s:
            raise Stale(off_s, self._window_s)
        if sender.sub != message.subject:
            raise SignedForAnother(message.subject)
        if not signing.holds(sender, message.data):
            raise Tampered

    async def _take_nonce(self, sender: signing.Sender) -> None:
        """Take a nonce before any agent does; only what a trusted key has signed gets here."""
        subject = self._names.nonce(sender.user, sender.nonce or "")
        try:
            await self._js.publish(
                subject, b"", stream=self._names.nonces_stream, headers={_EXPECTED: "0"}
            )
        except nats.js.errors.APIError as error:
            if error.err_code == _WRONG_SEQUENCE:
                raise Replayed from error
            raise endpoints.Refusal(_unsure(str(error.description))) from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise endpoints.Refusal(_unsure(type(error).__name__)) from error


def _unsure(reason: str) -> problems.Problem:
    message = f"it cannot be told whether this signature has been used before: {reason}"
    return problems.Problem("unavailable", message, hint="sign and send it again", retryable=True)
