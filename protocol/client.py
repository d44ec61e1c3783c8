"""Owns what an Orchestrator's author uses: ask the agent for runs and follow them."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client as Nats

from protocol import (
    codec,
    commands,
    credentials,
    events,
    following,
    pipelines,
    problems,
    roster,
    serving,
    signing,
    subjects,
    swarm,
    trail_reader,
)

T = TypeVar("T")

DESIGN_TIMEOUT_S = 60.0
"""A request by template is answered only after the agent has looked at the data."""

Entry = following.Entry
Raw = following.Raw


class ClientError(Exception):
    """The agent could not be asked, or said no."""

    def __init__(self, problem: problems.Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Refused(ClientError):
    """The agent refused; `problem` says why, and carries all problems where there are several."""


class AgentUnavailable(ClientError):
    """No agent is on the bus."""

    def __init__(self, subject: str) -> None:
        message = f"no agent answers on {subject}"
        super().__init__(problems.Problem("unavailable", message, retryable=True))


class NotAuthorized(ClientError):
    """The bus does not let this user ask that."""

    def __init__(self, subject: str) -> None:
        hint = "`mlpm permissions` shows which role may"
        message = f"the bus does not let this user publish to {subject}"
        super().__init__(problems.Problem("not_authorized", message, hint=hint))


class NoAnswer(ClientError):
    """An agent is on the bus but did not answer in time; the request may have been taken."""

    def __init__(self, subject: str, after_s: float) -> None:
        hint = "send the same request_id again: it is the same run"
        message = f"no answer on {subject} after {after_s:g} s"
        super().__init__(problems.Problem("timeout", message, hint=hint, retryable=True))


@contextlib.asynccontextmanager
async def connect(
    url: str = "nats://127.0.0.1:4222",
    *,
    prefix: str = subjects.DEFAULT_PREFIX,
    timeout_s: float = 5.0,
    who: credentials.Credentials = credentials.NOBODY,
    signing_key: signing.Key | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Connect while the context lasts; further `options` go to `nats.connect`.

    With a `signing_key` (signing.read_key) each request is signed. Raises
    credentials.CredentialsError where the key or certificate is of no use.
    """
    defaults = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.1, "allow_reconnect": True}
    connection = await credentials.connect(url, who, **{**defaults, **options})
    try:
        yield Client(connection, prefix=prefix, timeout_s=timeout_s, signing_key=signing_key)
    finally:
        await connection.close()


class Client:
    """Talks to the agent over a connection that is open."""

    def __init__(
        self,
        connection: Nats,
        *,
        prefix: str = subjects.DEFAULT_PREFIX,
        timeout_s: float = 5.0,
        signing_key: signing.Key | None = None,
    ) -> None:
        self.names = subjects.Subjects(prefix)
        self._nats = connection
        self._timeout_s = timeout_s
        self._signing_key = signing_key

    @property
    def connection(self) -> Nats:
        """Give the connection, for what is no request to an agent."""
        return self._nats

    async def submit(
        self,
        request: commands.PipelineRequest | None = None,
        *,
        pipeline: pipelines.Pipeline | dict[str, Any] | None = None,
        template: str | None = None,
        params: dict[str, Any] | None = None,
        options: pipelines.Options | dict[str, Any] | None = None,
        request_id: str | None = None,
        requester: str = "client",
    ) -> commands.RunAccepted:
        """Ask for a run, by a whole request or by its parts; it is on disk when this returns."""
        if request is None:
            request = make_request(
                pipeline=pipeline,
                template=template,
                params=params,
                options=options,
                request_id=request_id,
                requester=requester,
            )
        return await self._ask(
            self.names.pipeline_request,
            request,
            commands.RunAccepted,
            timeout_s=self._patience(request),
        )

    async def enqueue(self, request: commands.PipelineRequest) -> str:
        """Leave a request in the queue, agent or not, and give the id that its run will have."""
        stream = self._nats.jetstream(timeout=self._timeout_s)
        subject, data = self.names.pipeline_queue, codec.encode(request)
        run_id = subjects.run_id_for(request.requester, request.request_id)
        # Not the request_id: another requester may have the same.
        headers = {"Nats-Msg-Id": run_id, **self._headers(subject, data)}
        await stream.publish(subject, data, headers=headers)
        return run_id

    async def validate(self, request: commands.PipelineRequest) -> commands.ValidationReport:
        """Ask for all the problems of a request, and what the cache would give."""
        return await self._ask(
            self.names.pipeline("validate"),
            request,
            commands.ValidationReport,
            timeout_s=self._patience(request),
        )

    async def status(self, run_id: str) -> commands.RunStatus:
        """Ask where a run stands."""
        query = commands.RunQuery(run_id=run_id)
        return await self._ask(self.names.pipeline("status"), query, commands.RunStatus)

    async def list(self, query: commands.RunListQuery | None = None) -> commands.RunList:
        """Ask for runs, newest first."""
        asked = query or commands.RunListQuery()
        return await self._ask(self.names.pipeline("list"), asked, commands.RunList)

    async def agents(self) -> Sequence[swarm.AgentCard]:
        """Read which agents are there, and what each can take on."""
        return await roster.read(self._nats, self.names, dt.datetime.now(dt.UTC))

    async def control(
        self,
        agent: str,
        action: Literal["drain", "undrain", "set_capacity"],
        capacity: int | None = None,
    ) -> swarm.AgentCard:
        """Have one agent drain, take work again or change its capacity, and give its card."""
        command = swarm.AgentControl(action=action, capacity=capacity)
        return await self._ask(self.names.control(agent), command, swarm.AgentCard)

    async def cancel(
        self, run_id: str, *, by: str = "client", reason: str = "", grace_s: float = 5.0
    ) -> commands.RunStatus:
        """Stop a run; its `cancelled` event is the receipt."""
        command = commands.Cancel(run_id=run_id, by=by, reason=reason, grace_s=grace_s)
        return await self._ask(self.names.pipeline("cancel"), command, commands.RunStatus)

    async def resume(
        self,
        run_id: str,
        *,
        by: str = "client",
        from_stage: str | None = None,
        params: dict[str, dict[str, Any]] | None = None,
        backfill: bool = False,
    ) -> commands.RunStatus:
        """Go on with a failed or cancelled run."""
        command = commands.Resume(
            run_id=run_id, by=by, from_stage=from_stage, params=params or {}, backfill=backfill
        )
        return await self._ask(self.names.pipeline("resume"), command, commands.RunStatus)

    async def approve(
        self,
        run_id: str,
        stage: str,
        *,
        by: str = "client",
        approved: bool = True,
        comment: str = "",
    ) -> commands.RunStatus:
        """Answer a gate."""
        command = commands.Approve(
            run_id=run_id, stage=stage, by=by, approved=approved, comment=comment
        )
        return await self._ask(self.names.pipeline("approve"), command, commands.RunStatus)

    async def catalog(self, prefix: str = "") -> commands.StageCatalog:
        """Ask which stages and templates there are."""
        query = commands.CatalogQuery(prefix=prefix)
        return await self._ask(self.names.stage_catalog, query, commands.StageCatalog)

    async def endpoints(self, name: str | None = None) -> serving.EndpointList:
        """Ask where deployed models answer."""
        query = serving.EndpointQuery(name)
        return await self._ask(self.names.endpoint("list"), query, serving.EndpointList)

    async def undeploy(self, name: str, *, by: str = "client") -> serving.Endpoint:
        """Take an endpoint away."""
        command = serving.Undeploy(name, by)
        return await self._ask(self.names.endpoint("undeploy"), command, serving.Endpoint)

    async def roll_back(
        self, name: str, *, by: str = "client", reason: str = ""
    ) -> serving.Endpoint:
        """Let the version before serve again."""
        command = serving.RollBack(name, by, reason, uuid.uuid4().hex)
        return await self._ask(self.names.endpoint("rollback"), command, serving.Endpoint)

    async def predict(
        self, model: str, asked: serving.Predict, *, key: str = ""
    ) -> tuple[serving.Predicted, str, str]:
        """Ask a deployed model; give what it says, its version, and the prediction's id.

        There is an id while two versions are compared; equal keys are asked of one of them.
        """
        more = {serving.ASSIGNMENT_KEY: key} if key else {}
        subject = self.names.predict(model)
        given, data = await self._exchange(subject, asked, self._timeout_s, more)
        told = codec.decode(data, serving.Predicted, given.get(subjects.CONTENT_TYPE))
        return told, given.get(serving.MODEL_VERSION, ""), given.get(serving.PREDICTION_ID, "")

    async def outcome(self, model: str, prediction: str, value: float) -> serving.OutcomeTaken:
        """Tell what came of a prediction: 1 is best, 0 is worst."""
        told = serving.Outcome(prediction, value)
        return await self._ask(self.names.outcome(model), told, serving.OutcomeTaken)

    def follow(self, run_id: str, *, from_start: bool = True) -> AsyncIterator[Entry]:
        """Read a run's events from its journal, then live, until the run is over."""
        return following.follow(self._nats, self.names, run_id, from_start=from_start)

    def tail(
        self,
        *,
        run_id: str | None = None,
        stage: str | None = None,
        kind: str | None = None,
        from_start: bool = False,
    ) -> AsyncIterator[Entry]:
        """Read the events of all runs, or those that match, without end.

        `kind` is a type's last token, as `failed`, or all of it, as `stage.failed`.
        """
        wanted = following.Filter(run_id=run_id, scope=stage, kind=kind)
        return following.tail(self._nats, self.names, wanted, from_start=from_start)

    def journal(self, run_id: str) -> AsyncIterator[Raw]:
        """Read a run's commits as they are stored, up to now."""
        return following.stored(self._nats, self.names, self.names.run_journal(run_id))

    def audits(
        self, *, action: str = "*", newest: int = 0, follow: bool = False
    ) -> AsyncIterator[trail_reader.Stored]:
        """Read the audit log; raise nats.js.errors.NotFoundError where there is none."""
        return trail_reader.read(
            self._nats, self.names, action=action, newest=newest, follow=follow
        )

    async def progress(self, run_id: str) -> AsyncIterator[events.Progress]:
        """Read how far a run's stages are, as it is told; without end."""
        subscription = await self._nats.subscribe(self.names.run_progress(run_id))
        try:
            async for message in subscription.messages:
                with contextlib.suppress(codec.ProtocolError):  # lossy by nature: skip, go on
                    yield codec.decode(message.data, events.Progress)
        finally:
            await subscription.unsubscribe()

    def _headers(self, subject: str, data: bytes) -> dict[str, str]:
        signed = self._signing_key.headers(subject, data) if self._signing_key else {}
        return {subjects.CONTENT_TYPE: codec.JSON, **signed}

    def _patience(self, request: commands.PipelineRequest) -> float:
        least = DESIGN_TIMEOUT_S if request.template is not None else 0.0
        return max(self._timeout_s, least)

    async def _ask(
        self,
        subject: str,
        command: msgspec.Struct,
        kind: type[T],
        *,
        timeout_s: float | None = None,
    ) -> T:
        given, data = await self._exchange(subject, command, timeout_s or self._timeout_s)
        return codec.decode(data, kind, given.get(subjects.CONTENT_TYPE))

    async def _exchange(
        self,
        subject: str,
        command: msgspec.Struct,
        patience: float,
        more: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """Ask, and give the answer's headers and its bytes."""
        data = codec.encode(command)
        headers = {**self._headers(subject, data), **(more or {})}
        try:
            reply = await credentials.ask(
                self._nats, subject, data, timeout=patience, headers=headers
            )
        except credentials.NotPermitted as error:
            raise NotAuthorized(subject) from error
        except nats.errors.NoRespondersError as error:
            raise AgentUnavailable(subject) from error
        except nats.errors.MaxPayloadError as error:
            raise Refused(_too_large(self._nats.max_payload)) from error
        except nats.errors.TimeoutError as error:
            raise NoAnswer(subject, patience) from error
        given = reply.headers or {}
        if "Nats-Service-Error-Code" in given:
            raise Refused(_problem(reply.data, given.get("Nats-Service-Error", "")))
        return given, reply.data


def make_request(
    *,
    pipeline: pipelines.Pipeline | dict[str, Any] | None = None,
    template: str | None = None,
    params: dict[str, Any] | None = None,
    options: pipelines.Options | dict[str, Any] | None = None,
    request_id: str | None = None,
    requester: str = "client",
) -> commands.PipelineRequest:
    """Make a request of its parts, with an id of its own if none is given.

    Raises codec.ProtocolError if the parts don't make one.
    """
    parts = {
        "request_id": request_id or uuid.uuid4().hex,
        "requester": requester,
        "pipeline": pipeline,
        "template": template,
        "params": params or {},
        "options": options or {},
    }
    return codec.decode(msgspec.json.encode(parts), commands.PipelineRequest)


def _too_large(limit: int) -> problems.Problem:
    return problems.Problem(
        "payload_too_large",
        f"the bus takes messages of up to {limit} bytes",
        path="$",
        hint="fan out with for_each instead of listing stages, or raise the server's max_payload",
    )


def _problem(body: bytes, text: str) -> problems.Problem:
    try:
        return codec.decode(body, problems.Problem)
    except codec.ProtocolError:
        return problems.Problem("internal", text or "the agent refused without saying why")
