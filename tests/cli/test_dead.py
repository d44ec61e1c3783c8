"""The commands that look after dead letters, against a real bus."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from agent import config
from agent.bus import connection, streams
from agent.cli import app
from protocol import codec, subjects

NAMES = subjects.Subjects()
SECRET = "nats://ada:hush@db:4222"


@pytest.fixture
async def js(nats_url):
    client = await connection.connect(nats_url, config.Nats(), "test")
    await streams.ensure(client.jetstream(), NAMES)
    yield client.jetstream()
    await client.close()


@pytest.fixture
def mlpm(nats_url, capsys):
    """Call the program beside the loop of the test; give its exit code and what it printed."""

    async def call(*arguments):
        def run():
            with pytest.raises(SystemExit) as end:
                app.main([*arguments, "--url", nats_url])
            return end.value.code

        code = await asyncio.to_thread(run)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


async def bury(js, data=b"{nonsense", subject=NAMES.pipeline_queue, code="invalid_json", **more):
    """Put a letter in as the agent does."""
    headers = {
        "Dead-Subject": subject,
        "Dead-Code": code,
        "Dead-Reason": "no JSON",
        "Dead-Path": "$",
        **more,
    }
    ack = await js.publish(NAMES.deadletter, data, headers=headers)
    return ack.seq


async def count(js, stream=NAMES.deadletter_stream):
    return (await js.stream_info(stream)).state.messages


async def test_letters_are_listed_oldest_first_and_chosen_by_code_subject_and_time(js, mlpm):
    first = await bury(js)
    second = await bury(js, code="invalid_field")
    third = await bury(js, subject=NAMES.work("sample.add"))

    async def numbers(*filters):
        code, out, _ = await mlpm("dead", "list", "--json", *filters)
        assert code == 0
        return [one["sequence"] for one in msgspec.json.decode(out)]

    assert await numbers() == [first, second, third]
    assert await numbers("--limit", "2") == [second, third]
    assert await numbers("--code", "invalid_field") == [second]
    assert await numbers("--subject", NAMES.work("sample.add")) == [third]
    assert await numbers("--since", "1h") == [first, second, third]
    later = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
    assert await numbers("--since", later) == []


async def test_gaps_of_many_dropped_letters_hide_no_other(js, mlpm):
    first = await bury(js)
    for number in [await bury(js) for _ in range(150)]:
        await js.delete_msg(NAMES.deadletter_stream, number)
    code, out, _ = await mlpm("dead", "list", "--json")
    assert code == 0
    assert [one["sequence"] for one in msgspec.json.decode(out)] == [first]


async def test_a_time_that_is_none_is_wrong_usage(mlpm):
    code, _, err = await mlpm("dead", "list", "--since", "soon")
    assert code == 2
    assert "--since" in err


async def test_a_letter_is_shown_with_its_reason_its_headers_and_no_password(js, mlpm):
    number = await bury(js, b'{"uri": "nats:\\/\\/ada:hush@db:4222"}', **{"X-From": SECRET})
    code, out, _ = await mlpm("dead", "show", str(number), "--json")
    shown = msgspec.json.decode(out)
    assert code == 0
    assert shown["headers"]["Dead-Reason"] == "no JSON"
    assert shown["headers"]["X-From"] == "nats://***@db:4222"
    assert shown["body"] == '{"uri":"nats://***@db:4222"}'
    for flags in ([], ["--json"]):
        _, out, err = await mlpm("dead", "show", str(number), *flags)
        assert "hush" not in out + err


async def test_a_password_is_hidden_in_messagepack_and_where_the_body_was_cut(js, mlpm):
    packed = msgspec.msgpack.encode({"uri": SECRET})
    for data, more in (
        (packed, {subjects.CONTENT_TYPE: codec.MSGPACK}),
        (b'{"uri": "nats://ada:hush', {"Dead-Bytes": "900000"}),
    ):
        number = await bury(js, data, **more)
        _, out, _ = await mlpm("dead", "show", str(number), "--json")
        assert "hush" not in out
        assert "uri" in out


async def test_what_a_letter_asks_of_a_terminal_is_not_done(js, mlpm):
    number = await bury(js, b"\x1b[2J[red]boo[/red]", **{"X-From": "\x1b]0;title\x07"})
    for arguments in (["list"], ["show", str(number)]):
        code, out, _ = await mlpm("dead", *arguments)
        assert code == 0
        assert "\x1b" not in out
        assert "\x07" not in out
    assert "[red]boo[/red]" in out


async def test_a_letter_is_sent_again_to_where_it_came_on_and_is_gone(js, mlpm):
    number = await bury(js, b'{"a": 1}', **{"X-From": "me", subjects.CONTENT_TYPE: codec.JSON})
    code, out, _ = await mlpm("dead", "replay", str(number), "--json")
    assert code == 0
    assert msgspec.json.decode(out) == {"replayed": number, "subject": NAMES.pipeline_queue}
    sent = await js.get_last_msg(NAMES.intake_stream, NAMES.pipeline_queue)
    assert sent.data == b'{"a": 1}'
    assert sent.headers["X-From"] == "me"
    assert sent.headers[subjects.CONTENT_TYPE] == codec.JSON
    assert sent.headers["Replayed-From"] == f"{NAMES.deadletter_stream}/{number}"
    assert sent.headers["Nats-Msg-Id"]
    assert not any(name.startswith("Dead-") for name in sent.headers)
    assert await count(js) == 0


async def test_an_assignment_goes_back_to_its_own_queue(js, mlpm):
    number = await bury(js, b"{}", subject=NAMES.work("sample.add"))
    assert (await mlpm("dead", "replay", str(number)))[0] == 0
    assert (await js.get_last_msg(NAMES.work_stream, NAMES.work("sample.add"))).data == b"{}"


@pytest.mark.parametrize(
    "subject",
    [
        "elsewhere.ml.pipeline.queue",
        NAMES.run_journal("r1"),
        NAMES.ticket(5, "r1"),
        NAMES.deadletter,
        "$JS.API.STREAM.DELETE.CODEGUARDIAN_ML_JOURNAL",
        "codeguardian.swarm.work.>",
        "codeguardian.swarm.work.a b",
        "",
    ],
)
async def test_a_letter_opens_no_way_to_another_subject(js, mlpm, subject):
    number = await bury(js, subject=subject)
    code, out, _ = await mlpm("dead", "replay", str(number), "--json")
    assert code == 1
    assert msgspec.json.decode(out)["problem"]["code"] == "not_allowed"
    assert await count(js) == 1
    for stream in (NAMES.intake_stream, NAMES.work_stream, NAMES.journal_stream):
        assert await count(js, stream) == 0


@pytest.mark.parametrize("header", ["Dead-Bytes", "Dead-Headers"])
async def test_a_letter_that_is_not_whole_is_not_sent_again(js, mlpm, header):
    number = await bury(js, **{header: "900000"})
    code, out, _ = await mlpm("dead", "replay", str(number), "--json")
    assert code == 1
    assert msgspec.json.decode(out)["problem"]["code"] == "conflict"
    assert (await count(js), await count(js, NAMES.intake_stream)) == (1, 0)


async def test_a_letter_is_sent_again_whatever_somebody_has_put_there_before(js, mlpm):
    number = await bury(js, b'{"a": 1}')
    guess = f"replayed-{NAMES.deadletter_stream}-{number}"
    await js.publish(NAMES.pipeline_queue, b"{}", headers={"Nats-Msg-Id": guess})
    assert (await mlpm("dead", "replay", str(number)))[0] == 0
    assert (await js.get_last_msg(NAMES.intake_stream, NAMES.pipeline_queue)).data == b'{"a": 1}'
    assert await count(js) == 0


async def test_a_letter_that_was_sent_again_but_not_dropped_is_sent_each_time(js, mlpm):
    number = await bury(js, b"{}")
    stream = (await js.stream_info(NAMES.deadletter_stream)).config
    await js.update_stream(stream.evolve(deny_delete=True))
    for _ in range(2):
        assert (await mlpm("dead", "replay", str(number)))[0] != 0
    assert await count(js, NAMES.intake_stream) == 2
    assert await count(js) == 1


async def test_dropped_letters_are_gone_and_the_first_missing_one_ends_it(js, mlpm):
    numbers = [await bury(js) for _ in range(3)]
    code, out, _ = await mlpm("dead", "drop", str(numbers[0]), "77", str(numbers[1]), "--json")
    done, problem = out.split("\n", 1)
    assert code == 1
    assert msgspec.json.decode(done) == {"dropped": numbers[0]}
    assert msgspec.json.decode(problem)["problem"]["code"] == "not_found"
    assert await count(js) == 2


@pytest.mark.usefixtures("js")
@pytest.mark.parametrize("what", ["show", "replay", "drop"])
async def test_a_letter_that_is_not_there_is_not_found(mlpm, what):
    code, out, _ = await mlpm("dead", what, "7", "--json")
    assert (code, msgspec.json.decode(out)["problem"]["code"]) == (1, "not_found")


async def test_a_letter_that_somebody_else_put_there_is_shown_as_far_as_it_goes(js, mlpm):
    number = (await js.publish(NAMES.deadletter, b"\xff\x00")).seq
    code, out, _ = await mlpm("dead", "list", "--json")
    assert code == 0
    assert [one["sequence"] for one in msgspec.json.decode(out)] == [number]
    assert (await mlpm("dead", "show", str(number)))[0] == 0
