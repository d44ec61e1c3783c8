"""What each role may say and hear on a locked bus, and that it is refused everything else."""

from __future__ import annotations

import asyncio
import contextlib
import re

import nats.errors
import pytest
import pytest_asyncio

from agent.bus import letters, streams
from protocol import contract, credentials, permissions
from tests.security import locked

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("security")]

ORCHESTRATOR, SWARM, OPERATOR, AGENT, SPECIALIST, AUDITOR, WORKER, CALLER, SERVING = (
    permissions.ROLES
)
ASKED = {
    "pipeline.validate",
    "pipeline.status",
    "pipeline.list",
    "pipeline.cancel",
    "pipeline.resume",
    "pipeline.approve",
    "stage.catalog",
    "model.list",
    "model.promote",
    "model.rollback",
}
ENDPOINTS = {"endpoint.list", "endpoint.rollback", "endpoint.undeploy"}
PREDICTING = {"endpoint.predict", "endpoint.outcome"}
HOST = {
    "serving.deploy",
    "serving.halt",
    "serving.rollback",
    "serving.undeploy",
    "serving.list",
}
TOLD = {"journal", "event", "progress"}
# Written by hand, beside the table that is tested.
SAYS = {
    ORCHESTRATOR: ASKED | {"pipeline.request", "pipeline.queue", "endpoint.list"} | PREDICTING,
    OPERATOR: ASKED | ENDPOINTS | PREDICTING | {"swarm.control"},
    SWARM: {"swarm.work", "swarm.cancel", "swarm.control"},
    SPECIALIST: set(),
    AUDITOR: set(),
    WORKER: set(),
    CALLER: set(),
    SERVING: set(),
    AGENT: TOLD
    | HOST
    | {"training.request", "training.cancel", "alert", "deadletter", "audit", "swarm.audit"}
    | {"swarm.work", "swarm.cancel", "swarm.report", "swarm.progress", "swarm.presence"},
}
HEARS = {
    ORCHESTRATOR: TOLD,
    OPERATOR: TOLD
    | {"alert", "deadletter", "audit", "swarm.report", "swarm.progress", "swarm.presence"},
    SWARM: {"swarm.report", "swarm.progress", "swarm.presence"},
    SPECIALIST: {"training.request", "training.cancel"},
    AUDITOR: {"swarm.audit"},
    WORKER: set(),
    CALLER: set(),
    SERVING: HOST | PREDICTING,
    AGENT: ASKED
    | ENDPOINTS
    | {"pipeline.request", "event", "swarm.work", "swarm.cancel", "swarm.control"}
    | {"swarm.report", "swarm.progress"},
}
JOURNAL, TICKETS = locked.NAMES.journal_stream, locked.NAMES.tickets_stream
NOBODY_SAYS = [
    f"$JS.API.STREAM.DELETE.{JOURNAL}",
    f"$JS.API.STREAM.PURGE.{JOURNAL}",
    f"$JS.API.STREAM.MSG.DELETE.{JOURNAL}",
    "$JS.API.STREAM.CREATE.OTHER",
    f"$JS.API.STREAM.RESTORE.{JOURNAL}",
    f"$JS.API.STREAM.SNAPSHOT.{JOURNAL}",
    f"$JS.API.CONSUMER.CREATE.{JOURNAL}",
    f"$JS.API.CONSUMER.CREATE.{JOURNAL}.thief",
    f"$JS.API.CONSUMER.DURABLE.CREATE.{JOURNAL}.thief",
    f"$JS.API.CONSUMER.DELETE.{TICKETS}.tickets-5",
    "$JS.API.STREAM.NAMES",
    "$JS.ACK.OTHER.c.1.1.1.1.0",
    "$SYS.REQ.SERVER.PING",
    "anything.else",
]
AGENT_ALONE_SAYS = [
    locked.NAMES.ticket(5, "run-1"),
    locked.NAMES.nudge("run-1"),
    locked.NAMES.worker("w1"),
    locked.NAMES.presence_key("agent-1"),
    locked.NAMES.nonce("key", "nonce"),
    f"$JS.API.STREAM.CREATE.{JOURNAL}",
    f"$JS.API.STREAM.UPDATE.{JOURNAL}",
    f"$JS.API.CONSUMER.DURABLE.CREATE.{TICKETS}.tickets-5",
    f"$JS.API.CONSUMER.MSG.NEXT.{TICKETS}.tickets-5",
    f"$JS.ACK.{TICKETS}.tickets-5.1.1.1.1.0",
    "_INBOX.agent.x",
]
NOBODY_HEARS = [
    ">",
    "_INBOX.>",
    "codeguardian.>",
    "$JS.API.>",
    "$JS.ACK.>",
    "$SRV.>",
    "_R_.>",
    locked.NAMES.tickets(),
    "$JS.EVENT.>",
]


def said(channel: contract.Channel) -> str:
    """Give a subject that a message of the channel could have."""
    return re.sub(r"\{([a-z_]+)\}", r"\1-1", channel.address)


CHANNELS = {one.name: said(one) for one in contract.channels(locked.NAMES)}


class Probe:
    """A user that tries things."""

    def __init__(self, client, ear: locked.Ear) -> None:
        self.client = client
        self._ear = ear

    async def may_say(self, subject: str) -> bool:
        await self.client.publish(subject, b"")
        return await self._went_well()

    async def may_hear(self, subject: str) -> bool:
        subscription = await self.client.subscribe(subject)
        well = await self._went_well()
        with contextlib.suppress(nats.errors.BadSubscriptionError):
            await subscription.unsubscribe()
        return well

    async def _went_well(self) -> bool:
        await self.client.flush()  # its ping can go out before what waits to be sent
        await self.client.flush()  # the server complains before it answers this one
        return not [text for text in self._ear.take() if "permissions violation" in text]


@pytest_asyncio.fixture(loop_scope="session", params=permissions.ROLES)
async def role(request):
    return request.param


@pytest_asyncio.fixture(loop_scope="session")
async def probe(bus, keys, role):
    async with probing(bus, keys, role) as one:
        yield one


@contextlib.asynccontextmanager
async def probing(bus, keys, role):
    ear = locked.Ear()
    client = await credentials.connect(bus, keys.who(role), error_cb=ear.hear)
    yield Probe(client, ear)
    await client.close()


async def test_a_role_says_on_the_channels_of_its_list_and_on_no_other(probe, role):
    allowed = {name for name, subject in CHANNELS.items() if await probe.may_say(subject)}
    assert allowed == SAYS[role]


async def test_a_role_hears_the_channels_of_its_list_and_no_other(probe, role):
    allowed = {name for name, subject in CHANNELS.items() if await probe.may_hear(subject)}
    assert allowed == HEARS[role]


async def test_what_is_the_agents_own_is_refused_to_everybody_else(probe, role):
    allowed = {subject for subject in AGENT_ALONE_SAYS if await probe.may_say(subject)}
    assert allowed == (set(AGENT_ALONE_SAYS) if role == AGENT else set())


async def test_what_nobody_needs_is_refused_to_everybody(probe):
    assert [subject for subject in NOBODY_SAYS if await probe.may_say(subject)] == []
    assert [subject for subject in NOBODY_HEARS if await probe.may_hear(subject)] == []


async def test_a_role_hears_its_own_inbox_alone(probe, role):
    inboxes = {name: f"{permissions.inbox(name)}.>" for name in permissions.ROLES}
    own = {role} - {SPECIALIST, AUDITOR, WORKER, CALLER}  # these ask nothing, or elsewhere
    assert {name for name, inbox in inboxes.items() if await probe.may_hear(inbox)} == own


async def test_only_agents_can_pose_as_a_service_and_as_a_worker_s_agent(probe, role):
    assert await probe.may_hear("$SRV.PING") == (role == AGENT)
    assert await probe.may_hear("codeguardian.ml.worker.w1") == (role == WORKER)
    assert await probe.may_hear(locked.NAMES.nudge("run-1")) == (role == AGENT)


async def test_every_channel_has_somebody_who_says_it_and_who_hears_it(bus):  # noqa: ARG001
    assert set().union(*SAYS.values()) == set(CHANNELS)
    assert set().union(*HEARS.values()) | {"pipeline.queue"} == set(CHANNELS)  # that is a stream


async def test_an_agent_may_make_and_renew_every_stream_that_it_needs(bus, keys):
    async with probing(bus, keys, AGENT) as one:
        for wanted in streams.configs(locked.NAMES, 1):
            for verb in ("CREATE", "UPDATE"):
                assert await one.may_say(f"$JS.API.STREAM.{verb}.{wanted.name}"), wanted.name


async def test_no_answer_can_be_led_into_a_journal(bus, keys):
    """Whoever asks names the subject of the answer, and NATS does not check that one."""
    forged = locked.NAMES.run_journal("run-forged")
    agent = await credentials.connect(bus, keys.who(AGENT))
    await agent.jetstream().publish(locked.NAMES.run_journal("run-1"), b"{}")

    async def answer(message):
        await message.respond(b"{}")

    await agent.subscribe(locked.NAMES.pipeline("status"), cb=answer)
    await agent.subscribe("$SRV.PING", cb=answer)
    await agent.flush()
    asks = [
        (ORCHESTRATOR, locked.NAMES.pipeline("status"), b"{}"),
        (ORCHESTRATOR, locked.NAMES.pipeline_queue, b"{}"),
        (ORCHESTRATOR, "$SRV.PING", b""),
        (ORCHESTRATOR, f"$JS.API.DIRECT.GET.{JOURNAL}", b'{"seq": 1}'),
        (ORCHESTRATOR, f"$JS.API.STREAM.INFO.{JOURNAL}", b""),
        (OPERATOR, f"$JS.API.STREAM.MSG.GET.{JOURNAL}", b'{"seq": 1}'),
        (SWARM, locked.NAMES.work("a.b"), b"{}"),
    ]
    for role, subject, body in asks:
        async with probing(bus, keys, role) as asker:
            await asker.client.publish(subject, body, reply=forged)
            await asker.client.flush()
            # An answer that comes says that the ones before it have come, too.
            first = locked.NAMES.pipeline("status") if role != SWARM else "$SRV.PING"
            await asker.client.request(first, b"{}", timeout=5)
    held = await agent.jetstream().stream_info(JOURNAL, subjects_filter=">")
    await agent.close()
    assert locked.NAMES.run_journal("run-1") in held.state.subjects
    assert forged not in held.state.subjects


async def test_who_is_asked_answers_where_the_question_says_and_nowhere_else(bus, keys):
    asked = {
        WORKER: locked.NAMES.worker("w1"),
        AUDITOR: locked.NAMES.audit_request,
        SPECIALIST: locked.NAMES.training_request,
    }
    agent = await credentials.connect(bus, keys.who(AGENT))
    for role, subject in asked.items():
        async with probing(bus, keys, role) as one:
            came: asyncio.Queue = asyncio.Queue()
            await one.client.subscribe(subject, cb=came.put)
            await one.client.flush()
            inbox = agent.new_inbox()
            answers = await agent.subscribe(inbox)
            await agent.publish(subject, b"", reply=inbox)
            reply = (await asyncio.wait_for(came.get(), 5)).reply
            assert await one.may_say(reply)
            assert (await answers.next_msg(timeout=5)).subject == inbox
            assert await one.may_say(reply) == (role == SPECIALIST)  # the others answer once
            assert not await one.may_say(agent.new_inbox())
            assert not await one.may_say(locked.NAMES.run_journal("run-1"))
    await agent.close()


async def test_an_operator_reads_and_drops_dead_letters_and_sends_none_again(bus, keys):
    agent = await credentials.connect(bus, keys.who(AGENT))
    headers = {"Dead-Subject": locked.NAMES.pipeline_queue, "Dead-Code": "invalid_json"}
    for _ in range(2):
        await agent.jetstream().publish(locked.NAMES.deadletter, b"{", headers=headers)
    await agent.close()
    async with probing(bus, keys, OPERATOR) as one:
        box = letters.Letters(one.client, locked.NAMES)
        first, second = (await box.newest(letters.Wanted(), 10))[-2:]
        assert (await box.open(first.sequence)).body == "{"
        await box.drop(first.sequence)
        with pytest.raises(letters.NoSuchLetter):
            await box.open(first.sequence)
        with pytest.raises(nats.errors.TimeoutError):
            await box.replay(second.sequence)
        assert (await box.open(second.sequence)).code == "invalid_json"
