"""What roles may do beyond the least, where a deployment says so; and the caller's role."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time

import pytest
import pytest_asyncio
from synadia_ai import agents

from agent import config
from agent.artifacts import errors, garbage, objects, store
from agent.bus import deadletter, letters, streams
from agent.prompting import convention, door
from protocol import accounts, credentials, permissions
from stages import values
from tests.artifacts import samples
from tests.security import locked
from tests.security.test_permissions import probing

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("security")]

ORCHESTRATOR, SWARM, OPERATOR, AGENT, SPECIALIST, AUDITOR, WORKER, CALLER, SERVING = (
    permissions.ROLES
)
NAMES = locked.NAMES
EVERYTHING = permissions.Extras(reads=("LOGS",), secrets=True, objects=True, replays=True)
API, BUCKET = "$JS.API", NAMES.artifacts_stream
INSIDERS = {AGENT, SPECIALIST, WORKER}
# Written by hand, beside the table that is tested.
MORE = {
    f"{API}.STREAM.MSG.GET.LOGS": {WORKER},
    f"{API}.CONSUMER.CREATE.LOGS.x.y": {WORKER},
    f"{API}.STREAM.MSG.GET.KV_{NAMES.secrets_bucket}": {WORKER},
    f"{API}.STREAM.MSG.GET.{BUCKET}": {*INSIDERS, OPERATOR, SERVING},
    f"{API}.DIRECT.GET.{BUCKET}": {*INSIDERS, OPERATOR, SERVING},
    f"{API}.STREAM.PURGE.{BUCKET}": {*INSIDERS, OPERATOR},
    f"{API}.STREAM.INFO.{BUCKET}": {*INSIDERS, OPERATOR, SERVING},
    f"$O.{NAMES.artifacts_bucket}.C.x": INSIDERS,
    f"$O.{NAMES.artifacts_bucket}.M.x": INSIDERS,
    f"{API}.STREAM.CREATE.{BUCKET}": {AGENT},
    f"{API}.STREAM.UPDATE.{BUCKET}": {AGENT},
    NAMES.pipeline_queue: {OPERATOR, ORCHESTRATOR},
    NAMES.work("a.b"): {OPERATOR, AGENT, SWARM},
}
LEAST = {NAMES.pipeline_queue: {ORCHESTRATOR}, NAMES.work("a.b"): {AGENT, SWARM}}
NOBODY_SAYS = [
    f"$KV.{NAMES.secrets_bucket}.x",
    f"{API}.STREAM.DELETE.{BUCKET}",
    f"{API}.STREAM.PURGE.{NAMES.journal_stream}",
    f"{API}.STREAM.PURGE.{NAMES.deadletter_stream}",
    f"{API}.STREAM.MSG.DELETE.{BUCKET}",
    f"{API}.CONSUMER.CREATE.{BUCKET}.x",
    "$O.another.C.x",
]


@pytest.fixture(scope="module")
def trusted(tmp_path_factory):
    return locked.make_keys(tmp_path_factory.mktemp("trusted"), EVERYTHING)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def wide(trusted, tmp_path_factory):
    """Give the URL of a locked bus on which each role has every extra that is for it."""
    text = accounts.configuration(trusted.users)
    async with locked.serving(tmp_path_factory.mktemp("wide"), text) as url:
        agent = await credentials.connect(url, trusted.who(AGENT))
        await streams.ensure(agent.jetstream(), NAMES)
        await streams.keep(agent.jetstream(), streams.bucket(NAMES, 1, None))
        await agent.close()
        yield url


@pytest.mark.parametrize("role", permissions.ROLES)
async def test_each_extra_goes_to_the_roles_that_it_is_for(wide, trusted, role):
    async with probing(wide, trusted, role) as one:
        allowed = {subject for subject in MORE if await one.may_say(subject)}
        assert allowed == {subject for subject, roles in MORE.items() if role in roles}
        assert [subject for subject in NOBODY_SAYS if await one.may_say(subject)] == []


@pytest.mark.parametrize("role", permissions.ROLES)
async def test_without_extras_nobody_has_any(bus, keys, role):
    async with probing(bus, keys, role) as one:
        allowed = {subject for subject in MORE if await one.may_say(subject)}
    assert allowed == {subject for subject, roles in LEAST.items() if role in roles}


def open_store(url, keys, role, folder):
    uri = config.Settings(artifacts=config.Artifacts(uri=config.OBJECTS)).artifacts_uri
    return store.Store(uri, folder / role, objects.Access(url, keys.who(role)))


async def test_who_works_with_artifacts_shares_them_through_the_bus(wide, trusted, tmp_path):
    stores = {
        role: open_store(wide, trusted, role, tmp_path) for role in (*INSIDERS, OPERATOR, SERVING)
    }
    large = values.Text("x" * 300_000)

    def share():
        values_of = {role: samples.report(at) for at, role in enumerate(sorted(INSIDERS))}
        refs = {role: stores[role].put(value) for role, value in values_of.items()}
        refs["large"] = stores[WORKER].put(large)
        for one in stores.values():
            assert one.get(refs["large"]).text == large.text
            assert all(one.renew(ref) for ref in refs.values())
        with pytest.raises(errors.StoreRefused, match="permissions violation"):
            stores[OPERATOR].put(samples.report(7))
        with pytest.raises(errors.StoreRefused, match="permissions violation"):
            stores[SERVING].put(samples.report(8))
        swept = garbage.collect(stores[OPERATOR], {refs[AGENT].digest}, 0)
        assert (swept.deleted, swept.kept) == (3, 1)
        assert stores[AGENT].get(refs[AGENT]).data == values_of[AGENT].data
        assert stores[WORKER].sweep(time.time() + 60) == 0

    await asyncio.to_thread(share)


@pytest.mark.parametrize("role", [ORCHESTRATOR, AUDITOR])
async def test_nobody_else_reads_artifacts(wide, trusted, tmp_path, role):
    refused = open_store(wide, trusted, role, tmp_path)
    with pytest.raises(errors.StoreError):
        await asyncio.to_thread(refused.read_record, "cache/a/b.json")


async def test_an_operator_that_may_replay_sends_dead_letters_again(wide, trusted):
    agent = await credentials.connect(wide, trusted.who(AGENT))
    for number in range(2):
        told = {deadletter.SUBJECT: NAMES.pipeline_queue, deadletter.CODE: "invalid_json"}
        told |= {deadletter.REASON: "why", "Nats-Msg-Id": f"letter-{number}"}
        await agent.jetstream().publish(NAMES.deadletter, b"{}", headers=told)
    operator = await credentials.connect(wide, trusted.who(OPERATOR))
    box = letters.Letters(operator, NAMES)
    found = await box.newest(letters.Wanted(), 10)
    assert [one.subject for one in found] == [NAMES.pipeline_queue] * 2
    assert (await box.open(found[0].sequence)).body == "{}"
    before = (await agent.jetstream().stream_info(NAMES.intake_stream)).state.messages
    assert await box.replay(found[0].sequence) == NAMES.pipeline_queue
    assert [one.sequence for one in await box.newest(letters.Wanted(), 10)] == [found[1].sequence]
    after = (await agent.jetstream().stream_info(NAMES.intake_stream)).state.messages
    assert after == before + 1
    await operator.close()
    await agent.close()


@contextlib.asynccontextmanager
async def opened(bus, keys):
    """Serve a door on the locked bus, as the agent does."""

    async def answer(asked, _, stream):
        await stream.say(f"heard {asked.prompt}")
        await stream.say((await stream.ask("well?")).decode())

    async def nobody(_, caller):
        return caller

    agent = await credentials.connect(bus, keys.who(AGENT))
    made = door.Door(
        agent,
        convention.Place("tester", "one"),
        answer,
        identify=nobody,
        version="1.0.0",
        clock=lambda: dt.datetime.now(dt.UTC),
        max_bytes=100_000,
    )
    await made.open()
    try:
        yield
    finally:
        await made.close()
        await agent.close()


async def test_a_caller_finds_the_agent_prompts_it_and_answers_its_questions(bus, keys):
    ear = locked.Ear()
    async with opened(bus, keys):
        nc = await credentials.connect(bus, keys.who(CALLER), error_cb=ear.hear)
        callers = agents.Agents(nc=nc)
        async with asyncio.timeout(30):
            (found,) = await callers.discover()
            said = []
            async for chunk in found.prompt("hello"):
                if isinstance(chunk, agents.Query):
                    await chunk.reply("approve")
                elif isinstance(chunk, agents.ResponseChunk):
                    said.append(chunk.text)
        await callers.close()
        await nc.flush()
        await nc.close()
    assert said == ["heard hello", "approve"]
    assert ear.take() == []


async def test_a_caller_says_nothing_else(bus, keys):
    async with probing(bus, keys, CALLER) as one:
        for subject in (
            NAMES.pipeline_request,
            NAMES.pipeline("status"),
            "agents.hb.mlpm.a.b",
            "agents.prompt.another.a.b",
            "_INBOX.agent.x",
            "$SRV.PING",
            f"$SRV.PING.{permissions.AGENT}",
        ):
            assert not await one.may_say(subject), subject
        for subject in ("agents.prompt.mlpm.a.b", "$SRV.PING.agents", "_R_.>", "_INBOX.agent.>"):
            assert not await one.may_hear(subject), subject
        assert await one.may_hear("agents.hb.mlpm.*.*")


async def test_no_answer_to_a_caller_can_be_led_into_a_journal(bus, keys):
    forged = NAMES.run_journal("run-forged")
    agent = await credentials.connect(bus, keys.who(AGENT))
    await agent.jetstream().publish(NAMES.run_journal("run-1"), b"{}")

    async def answer(message):
        await message.respond(b"{}")

    await agent.subscribe("agents.prompt.mlpm.a.b", cb=answer)
    await agent.flush()
    async with probing(bus, keys, CALLER) as one:
        inbox = f"{permissions.inbox('agents')}.x.y"
        answers = await one.client.subscribe(inbox)
        await one.client.publish("agents.prompt.mlpm.a.b", b"", reply=forged)
        await one.client.publish("agents.prompt.mlpm.a.b", b"", reply=inbox)
        await answers.next_msg(timeout=5)  # the answer before it has come, too
    held = await agent.jetstream().stream_info(NAMES.journal_stream, subjects_filter=">")
    await agent.close()
    assert forged not in held.state.subjects
