"""Any bytes can come over the bus: the agent answers, or puts them aside, and goes on."""

from __future__ import annotations

import asyncio
import pathlib

import pytest

from protocol import credentials, subjects
from scripts.fuzz_parts import campaign, findings, messages, stack

CASES = sorted((pathlib.Path(__file__).parent / "cases").glob("*.json"))
SEED, COUNT = 7, 5_000
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("fuzz"),
]


def _told(found: findings.Findings) -> str:
    """Give the cases whole, as files of `cases/` have them."""
    return "\n".join(findings.dump(case).decode() for case in found.cases)


async def test_five_thousand_messages_of_a_seed_are_answered_or_put_aside():
    async with campaign.under_fire(SEED) as fired:
        outcome = await fired.run(COUNT, minutes=3.0)
    assert outcome.found.counts == {}, _told(outcome.found)
    assert outcome.sent == COUNT
    assert outcome.outcomes["pipeline.request"]["ok"] > 0
    assert outcome.outcomes["pipeline.queue, at the end"]["accepted"] > 0


async def test_what_was_found_once_harms_no_more():
    async with campaign.under_fire(SEED) as fired:
        for file in CASES:
            await fired.replay(findings.load(file))
            assert fired.found.counts == {}, f"{file.name}\n{_told(fired.found)}"
        await fired.settle()
    assert fired.found.counts == {}, _told(fired.found)


def test_a_seed_and_a_number_are_always_the_same_message():
    first, second = (messages.Maker(3, stack.AGENT_ID, subjects.Subjects()) for _ in range(2))
    assert [first.message(n) for n in range(50)] == [second.message(n) for n in range(50)]
    assert first.message(0) != first.message(1)


async def test_tickets_that_name_no_run_do_not_come_again_and_again():
    names = subjects.Subjects()
    async with stack.running() as running:
        bus = await credentials.connect(running.url)
        for run_id in ("l" * 200, "ä"):
            await bus.jetstream().publish(f"{names.prefix}.ml.ticket.5.{run_id}", b"")
        async with asyncio.timeout(30):
            while (await bus.jetstream().stream_info(names.tickets_stream)).state.messages:  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.05)
        await bus.close()
