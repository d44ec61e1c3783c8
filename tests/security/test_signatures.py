"""Whose signature counts: what holds, what does not, and what an agent does about it."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt

import msgspec
import nats
import pytest
import pytest_asyncio
from synadia_ai import agents
from synadia_ai.agents import identity

from agent import config, layers, rights, service
from agent.bus import endpoints, senders, streams
from protocol import client, codec, commands, credentials, events, problems, signing, subjects
from tests.prompting import helpers as prompting
from tests.security import locked
from tests.service import helpers
from tests.service.helpers import stage

NAMES = subjects.Subjects()
SUBJECT = NAMES.pipeline("cancel")
NOW = dt.datetime(2026, 11, 23, 9, 0, 0, tzinfo=dt.UTC)
BODY = b'{"run_id": "r", "by": "bob"}'
ADA, CI, EVE = (signing.Key(signing.new_seed()) for _ in range(3))
TRUST = (f"ada={ADA.public}", f"ci={CI.public}:submit+cancel+resume")
DEMANDED = ("cancel", "resume", "approve", "deploy")
MODULES = (*helpers.MODULES, "tests.security.signing_stages")
RUNNING = [pytest.mark.ray, pytest.mark.xdist_group("service")]


def with_agent(test):
    """Mark a test that needs the running agent."""
    for mark in (*RUNNING, pytest.mark.asyncio(loop_scope="session")):
        test = mark(test)
    return test


def value_of(key, subject=SUBJECT, body=BODY, **more):
    return key.headers(subject, body, **more)[subjects.SENDER]


def spoilt(nkey):
    """Change one letter in the middle."""
    return nkey[:20] + ("B" if nkey[20] == "A" else "A") + nkey[21:]


class Came(msgspec.Struct):
    """A message as an endpoint gets it."""

    headers: dict[str, str] | None
    subject: str = SUBJECT
    data: bytes = BODY


def signed(key, *, at=NOW, **more):
    return Came(key.headers(SUBJECT, BODY, at=at, **more))


# What is signed is what the convention's own package signs.


def test_the_conventions_package_verifies_what_we_sign():
    header = identity.parse_sender_header(value_of(ADA))
    found = identity.verify_sender_header(header, SUBJECT, BODY, mode="live")
    assert isinstance(found, identity.VerifiedSender)
    assert (found.id.user, found.id.account) == (ADA.public, "$G")


async def test_we_verify_what_the_conventions_package_signs_and_write_the_same_header():
    seed = signing.new_seed()
    ours, theirs = signing.Key(seed), identity.signer_from_seed(seed)
    header = await identity.sign_sender_header(
        signer=theirs,
        id=identity.AgentId.new("$G", ours.public),
        sub=SUBJECT,
        payload=BODY,
        ts="2026-11-23T09:00:00Z",
        nonce="n-1",
    )
    value = identity.serialize_sender_header(header)
    assert value == value_of(ours, at=NOW, nonce="n-1")
    sender = signing.parse(value)
    assert signing.holds(sender, BODY)
    assert not signing.holds(sender, BODY + b" ")


@pytest.mark.parametrize("field", ["account", "sub", "ts", "nonce", "user"])
def test_every_signed_field_is_bound(field):
    other = {"account": "ACME", "ts": "2026-11-23T09:00:01Z", "user": EVE.public}
    sender = signing.parse(value_of(ADA, at=NOW))
    changed = msgspec.structs.replace(sender, **{field: other.get(field, "another")})
    assert signing.holds(sender, BODY)
    assert not signing.holds(changed, BODY)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        "null",
        '{"v": "1"}',
        '{"v": true}',
        '{"v": 1}',
        "x" * 3000,
        "[" * 2000,
        '{"v": 1, "account": "a b", "user": "USER"}',
        '{"v": 1, "account": "$G\\n", "user": "USER"}',
        '{"v": 1, "account": "$G", "user": "USER\\n"}',
        '{"v": 1, "account": "$G", "user": "USER", "ts": "2026-13-01T00:00:00Z"}',
        '{"v": 1, "account": "$G", "user": "USER", "nonce": "a.b"}',
        '{"v": 1, "account": "$G", "user": "USER", "sig": "%s"}' % ("a" * 86),
    ],
)
def test_a_header_that_is_none_is_told_as_that(value):
    with pytest.raises(signing.Malformed):
        signing.parse(value.replace("USER", ADA.public))


def test_a_header_of_another_version_says_nothing():
    assert signing.parse('{"v": 2, "what": "ever"}') is None


def test_a_key_never_shows_its_secret_half(tmp_path):
    seed = signing.new_seed().decode()
    assert seed not in repr(signing.Key(seed))
    with pytest.raises(signing.NotAKey) as refused:
        signing.Key(spoilt(seed))
    assert seed[30:] not in str(refused.value)
    file = tmp_path / "key"
    file.write_text(seed[:40])
    file.chmod(0o600)
    with pytest.raises(credentials.FileUnusable) as unusable:
        signing.read_key(str(file))
    assert seed[:40] not in str(unusable.value)


def test_a_key_open_to_others_is_not_used(tmp_path):
    locked.make_seed(tmp_path / "key", mode=0o644)
    with pytest.raises(credentials.FileExposed):
        signing.read_key(str(tmp_path / "key"))


def test_a_credentials_file_gives_key_and_account(tmp_path):
    seed = signing.new_seed().decode()
    claims = msgspec.json.encode({"iss": "A" + "B" * 55, "nats": {"issuer_account": "ACME"}})
    body = base64.urlsafe_b64encode(claims).rstrip(b"=").decode()
    file = tmp_path / "ada.creds"
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\nx.{body}.y\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    file.chmod(0o600)
    key = signing.read_key(str(file))
    assert (key.public, key.account) == (signing.Key(seed).public, "ACME")


# The configuration says whose keys count.


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("ada", "NAME=PUBLIC-NKEY"),
        ("ada=UABC", "not the public key"),
        (f"unsigned={ADA.public}", "no key"),
        (f"ada={ADA.public}:fly", "'fly' is none of"),
        (f"ada={spoilt(ADA.public)}", "not the public key"),
    ],
)
def test_a_key_that_is_none_stops_the_configuration(entry, reason):
    with pytest.raises(config.BadValue) as refused:
        layers.load(env={"MLPM_SECURITY__TRUSTED_KEYS": entry})
    assert reason in str(refused.value)


def test_keys_come_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "mlpm.toml"
    file.write_text(f'[security]\ntrusted_keys = ["{TRUST[0]}"]\nrequire_signatures = ["cancel"]\n')
    assert layers.load(file, env={}).security.require_signatures == ("cancel",)
    given = {"MLPM_SECURITY__TRUSTED_KEYS": ",".join(TRUST)}
    trusted = rights.read(layers.load(file, env=given).security.trusted_keys)
    assert {one.name: one.rights for one in trusted.values()} == {
        "ada": None,
        "ci": {"submit", "cancel", "resume"},
    }
    with pytest.raises(config.BadValue):
        layers.load(env={"MLPM_SECURITY__REQUIRE_SIGNATURES": "cancle"})


def test_a_name_may_have_two_keys_and_a_key_one_name():
    assert len(rights.read([TRUST[0], f"ada={EVE.public}"])) == 2
    with pytest.raises(rights.BadEntry):
        rights.read([TRUST[0], f"eve={ADA.public}"])


# An agent looks at what comes.


@pytest.fixture
async def bus(nats_url):
    connection = await nats.connect(nats_url)
    await streams.ensure(connection.jetstream(), NAMES)
    yield connection
    await connection.close()


def knowing(connection, *, trust=TRUST, demanded=DEMANDED, now=NOW):
    settings = config.Security(require_signatures=demanded, trusted_keys=trust)
    return senders.Senders(connection, NAMES, settings, lambda: now)


async def refused(known, came, error, **more):
    """Check that a message is refused with a hint and give what is said."""
    with pytest.raises(error) as told:
        await known.identified(came, endpoints.Caller(), **more)
    problem = told.value.problem
    assert (problem.code, bool(problem.hint)) == ("not_authorized", True)
    return problem.message


async def test_a_signature_that_holds_names_its_sender(bus):
    found = await knowing(bus).identified(signed(ADA), endpoints.Caller(traceparent="t"))
    assert (found.signed_by, found.key, found.traceparent) == ("ada", ADA.public, "t")


async def test_a_message_is_refused_that_differs_in_anything_from_what_was_signed(bus):
    known = knowing(bus)
    for changes in ({"data": BODY.replace(b"bob", b"ada")}, {"data": b""}):
        came = msgspec.structs.replace(signed(ADA), **changes)
        await refused(known, came, senders.Tampered)
    stolen = signed(EVE).headers[subjects.SENDER].replace(EVE.public, ADA.public)
    await refused(known, Came({subjects.SENDER: stolen}), senders.Tampered)
    elsewhere = msgspec.structs.replace(signed(ADA), subject=NAMES.pipeline("approve"))
    await refused(known, elsewhere, senders.SignedForAnother)


@pytest.mark.parametrize("off_s", [-121, 121, 86_400])
async def test_a_signature_of_another_time_is_refused(bus, off_s):
    await refused(knowing(bus), signed(ADA, at=NOW - dt.timedelta(seconds=off_s)), senders.Stale)
    edge = dt.timedelta(seconds=119 if off_s > 0 else -119)
    found = await knowing(bus).identified(signed(ADA, at=NOW - edge), endpoints.Caller())
    assert found.signed_by == "ada"


async def test_an_unknown_key_is_refused_by_its_public_half_alone(bus):
    said = await refused(knowing(bus), signed(EVE), senders.UnknownKey)
    assert EVE.public in said
    assert not any(name in said for name in ("ada", ADA.public, CI.public))


async def test_a_broken_header_is_refused_even_where_no_signature_is_demanded(bus):
    known = knowing(bus, demanded=())
    await refused(known, Came({subjects.SENDER: "{"}), senders.Unreadable)
    await refused(known, signed(EVE), senders.UnknownKey)


async def test_where_no_key_is_trusted_no_signature_is_looked_at(bus):
    known = knowing(bus, trust=(), demanded=())
    for value in ("{", value_of(EVE)):
        found = await known.identified(Came({subjects.SENDER: value}), endpoints.Caller())
        assert found.signed_by is None


async def test_a_claim_without_a_signature_proves_nothing(bus):
    claim = f'{{"v":1,"account":"$G","user":"{ADA.public}"}}'
    known = knowing(bus)
    found = await known.identified(Came({subjects.SENDER: claim}), endpoints.Caller())
    assert found.key is None
    with pytest.raises(senders.Unsigned):
        known.permit("cancel", found)


async def test_no_agent_takes_a_signature_that_another_has_taken(bus, nats_url):
    other = await nats.connect(nats_url)
    one, two = knowing(bus), knowing(other)
    came = signed(ADA)
    await one.identified(came, endpoints.Caller())
    await refused(two, came, senders.Replayed)
    await refused(one, came, senders.Replayed)
    again = [
        known.identified(signed(ADA, nonce="once"), endpoints.Caller()) for known in (one, two)
    ]
    results = await asyncio.gather(*again, return_exceptions=True)
    assert sorted(isinstance(each, senders.Replayed) for each in results) == [False, True]
    await other.close()


async def test_a_nonce_is_remembered_longer_than_its_signature_holds(bus):
    kept = (await bus.jetstream().stream_info(NAMES.nonces_stream)).config
    assert kept.max_age >= 2 * config.Security().signature_window_s
    assert (kept.discard, kept.max_bytes > 0) == ("new", True)


async def test_what_nobody_trusted_has_signed_takes_no_nonce(bus):
    known = knowing(bus)
    await refused(known, signed(EVE, nonce="mine"), senders.UnknownKey)
    forged = msgspec.structs.replace(signed(ADA, nonce="mine"), data=b"{}")
    await refused(known, forged, senders.Tampered)
    info = await bus.jetstream().stream_info(NAMES.nonces_stream)
    assert info.state.messages == 0


async def test_where_nonces_cannot_be_kept_a_signature_does_not_count(bus):
    await bus.jetstream().delete_stream(NAMES.nonces_stream)
    with pytest.raises(endpoints.Refusal) as told:
        await knowing(bus).identified(signed(ADA), endpoints.Caller())
    assert (told.value.problem.code, told.value.problem.retryable) == ("unavailable", True)


async def test_a_stored_message_was_signed_when_it_was_stored_and_may_come_again(bus):
    known, late = knowing(bus, now=NOW + dt.timedelta(days=2)), signed(ADA)
    for _ in range(2):
        found = await known.identified(late, endpoints.Caller(), stored_at=NOW)
        assert found.signed_by == "ada"
    await refused(known, late, senders.Stale, stored_at=NOW + dt.timedelta(days=1))


async def test_a_key_may_do_what_it_is_trusted_with_and_no_more(bus):
    known = knowing(bus)
    ada, ci = [await known.identified(signed(key), endpoints.Caller()) for key in (ADA, CI)]
    for action in ("submit", "queue", "cancel", "approve", "deny", "control"):
        known.permit(action, ada)
    known.permit("queue", ci)
    for action in ("approve", "deny", "control"):
        with pytest.raises(senders.NotPermitted):
            known.permit(action, ci)


# The running agent.


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def agent(ray_cluster, tmp_path_factory):  # noqa: ARG001 - the connection is the process's
    """Give an agent that demands signatures."""
    demanding = config.Security(require_signatures=DEMANDED, trusted_keys=TRUST)
    settings = helpers.settings(tmp_path_factory.mktemp("signed"), security=demanding)
    async with service.running(settings, modules=MODULES) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ask(agent):
    """Give a client that signs nothing."""
    async with client.connect(agent.nats_url) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ada(agent):
    async with client.connect(agent.nats_url, signing_key=ADA) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def ci(agent):
    async with client.connect(agent.nats_url, signing_key=CI) as one:
        yield one


async def denied(asking):
    """Give the problem with which something is not authorized."""
    with pytest.raises(client.Refused) as told:
        await asking
    assert told.value.problem.code == "not_authorized"
    return told.value.problem


def gate():
    return stage("g", "sample.noop", approval={"prompt": "sure?"})


@with_agent
async def test_only_a_signature_approves_and_its_name_is_what_the_journal_has(ask, ada, ci):
    run_id = await helpers.submit(ask, gate())
    await helpers.wait_state(ask, run_id, "waiting")
    problem = await denied(ask.approve(run_id, "g", by="ada"))
    assert "takes a signature" in problem.message
    problem = await denied(ci.approve(run_id, "g", by="ada"))
    assert problem.message == "the key of 'ci' may not approve"
    assert (await ask.status(run_id)).state == "waiting"
    await ada.approve(run_id, "g", by="bob")
    (approved,) = helpers.of(await helpers.story(ask, run_id), events.StageApproved)
    assert (approved.by, approved.signed_by) == ("ada", "ada")
    assert approved.cause == "commands/approve by ada"


@with_agent
async def test_only_a_signature_cancels_a_run_that_is_at_work_and_resumes_it(
    ask, ada, ci, tmp_path
):
    trace = tmp_path / "trace"
    run_id = await helpers.submit(
        ask, stage("a", "service.work", {"trace": str(trace), "seconds": 60})
    )
    await helpers.wait_line(trace, "began")
    await denied(ask.cancel(run_id))
    await ci.cancel(run_id, by="nobody")
    told = await helpers.story(ask, run_id)
    (asked,) = helpers.of(told, events.CancelRequested)
    (receipt,) = helpers.of(told, events.RunCancelled)
    assert (asked.by, asked.signed_by, receipt.by) == ("ci", "ci", "ci")
    await denied(ask.resume(run_id))
    await ada.resume(run_id, params={"a": {"seconds": 0}})
    (resumed,) = helpers.of(await helpers.story(ask, run_id), events.RunResumed)
    assert (resumed.by, resumed.signed_by) == ("ada", "ada")


@with_agent
async def test_where_none_is_demanded_a_request_is_taken_with_and_without_a_signature(ask, ada):
    for asking, name in ((ask, None), (ada, "ada")):
        _, told = await helpers.done(asking, stage("a", "sample.noop"))
        assert (told[0].requester, told[0].signed_by) == ("client", name)


@with_agent
async def test_a_pipeline_that_deploys_takes_a_key_that_may_deploy(ask, ada, ci):
    broken = stage("d", "deploy.pretend", {"fail": True})
    for asking in (ask, ci):
        problem = await denied(asking.submit(helpers.request(stage("a", "sample.noop"), broken)))
        assert problem.path == "$.pipeline.stages[1].use"
    run_id = await helpers.submit(ada, broken)
    assert (await helpers.ended(ask, run_id)).state == "failed"
    problem = await denied(ci.resume(run_id, params={"d": {"fail": False}}))
    assert problem.message == "the key of 'ci' may not deploy"
    await ada.resume(run_id, params={"d": {"fail": False}})
    assert (await helpers.ended(ask, run_id)).state == "succeeded"


@with_agent
async def test_the_very_same_message_is_taken_once(agent, ask):
    bus = await nats.connect(agent.nats_url)
    request = codec.encode(helpers.request(stage("a", "sample.noop")))
    headers = ADA.headers(NAMES.pipeline_request, request)
    _, first = await helpers.ask_raw(bus, NAMES.pipeline_request, request, **headers)
    error, second = await helpers.ask_raw(bus, NAMES.pipeline_request, request, **headers)
    assert first["run_id"]
    assert (second["code"], error["Nats-Service-Error-Code"]) == ("not_authorized", "403")
    assert second["hint"]
    await helpers.ended(ask, first["run_id"])
    await bus.close()


@with_agent
async def test_a_signature_that_does_not_hold_is_refused_and_says_nothing_of_whom_we_trust(agent):
    bus = await nats.connect(agent.nats_url)
    body = codec.encode(commands.Cancel(run_id="r", by="ada"))
    cancel = NAMES.pipeline("cancel")
    for headers in (
        EVE.headers(cancel, body),
        ADA.headers(cancel, body + b" "),
        ADA.headers(NAMES.pipeline("resume"), body),
        ADA.headers(cancel, body, at=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
        {subjects.SENDER: "{}"},
    ):
        _, told = await helpers.ask_raw(bus, cancel, body, **headers)
        problem = msgspec.convert(told, problems.Problem)
        assert (problem.code, bool(problem.hint)) == ("not_authorized", True)
        assert CI.public not in str(told)
        assert "'ci'" not in str(told)
    query = codec.encode(commands.RunListQuery())
    _, listed = await helpers.ask_raw(bus, NAMES.pipeline("list"), query, **headers)
    assert "runs" in listed, "what changes nothing takes no notice of signatures"
    await bus.close()


@with_agent
async def test_a_request_in_the_queue_carries_its_signature(agent, ada):
    run_id = await ada.enqueue(helpers.request(stage("a", "sample.noop")))
    async with asyncio.timeout(helpers.WAIT_S):
        entry = await anext(ada.tail(run_id=run_id, from_start=True))
    assert entry.event.signed_by == "ada"
    await helpers.ended(ada, run_id)
    bus = await nats.connect(agent.nats_url)
    heard = await bus.subscribe(NAMES.deadletter)
    request = codec.encode(helpers.request(stage("a", "sample.noop")))
    forged = EVE.headers(NAMES.pipeline_queue, request)
    await bus.jetstream().publish(NAMES.pipeline_queue, request, headers=forged)
    letter = await heard.next_msg(timeout=helpers.WAIT_S)
    assert letter.headers["Dead-Code"] == "not_authorized"
    await bus.close()


@with_agent
async def test_a_prompt_does_not_get_around_a_demanded_signature(agent, ask):
    run_id = await helpers.submit(ask, gate())
    await helpers.wait_state(ask, run_id, "waiting")
    bus = await nats.connect(agent.nats_url)
    callers = agents.Agents(nc=bus)
    (found,) = await callers.discover()
    _, error = await prompting.refused(found, f"cancel {run_id}")
    assert "takes a signature" in error
    assert (await ask.status(run_id)).state == "waiting"
    await callers.close()
    await bus.close()
