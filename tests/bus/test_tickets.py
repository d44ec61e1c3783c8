from __future__ import annotations

import asyncio
import signal

import pytest

from agent.bus import tickets


@pytest.fixture
async def queue(nc, names):
    opened = tickets.Tickets(nc, names, lease_s=0.6)
    await opened.open()
    yield opened
    await opened.close()


async def taken(queue, within=5.0):
    return await asyncio.wait_for(queue.take(), within)


async def test_a_backlog_is_served_by_priority(queue):
    for run_id, priority in (("low", 1), ("high", 9), ("middle", 5)):
        await queue.put(run_id, priority, "t")
    order = []
    for _ in range(3):
        ticket = await taken(queue)
        order.append(ticket.run_id)
        await ticket.done()
    assert order == ["high", "middle", "low"]


async def test_a_run_has_one_place_in_the_queue(queue):
    assert await queue.put("r1", 5, "accepted")
    assert not await queue.put("r1", 5, "accepted")
    assert not await queue.put("r1", 5, "another")
    assert await queue.queued() == {"r1"}
    await (await taken(queue)).done()
    assert not await queue.queued()
    assert await queue.put("r1", 5, "resumed")
    await (await taken(queue)).done()


async def test_a_waiting_agent_gets_a_ticket_as_it_comes(queue):
    waiting = asyncio.create_task(taken(queue))
    await asyncio.sleep(0)
    await queue.put("r1", 3, "t")
    ticket = await waiting
    assert ticket.run_id == "r1"
    await ticket.done()


async def test_a_held_ticket_outlives_its_lease_and_goes_to_nobody_else(queue, nc, names):
    other = tickets.Tickets(nc, names, lease_s=0.6)
    await queue.put("r1", 5, "t")
    ticket = await taken(queue)
    with pytest.raises(TimeoutError):
        await taken(other, within=2.0)
    await ticket.done()
    await other.close()


async def test_a_ticket_that_is_not_renewed_goes_to_another_agent(queue, nc, names):
    other = tickets.Tickets(nc, names, lease_s=0.6)
    await queue.put("r1", 5, "t")
    dead = await taken(queue)
    await dead.forget()
    heir = await taken(other)
    assert (heir.run_id, heir.delivered) == ("r1", 2)
    await heir.done()
    await other.close()


async def test_a_ticket_handed_back_is_taken_again_at_once(queue):
    await queue.put("r1", 5, "t")
    await (await taken(queue)).hand_back(0)
    again = await taken(queue)
    assert again.run_id == "r1"
    await again.done()


async def test_a_holder_learns_that_its_ticket_cannot_be_renewed(queue, embedded):
    await queue.put("r1", 5, "t")
    ticket = await taken(queue)
    embedded._process.send_signal(signal.SIGSTOP)  # it is there, but answers nothing
    try:
        await asyncio.wait_for(ticket.wait_lost(), 5)
        await ticket.forget()
    finally:
        embedded._process.send_signal(signal.SIGCONT)


async def test_a_ticket_handed_back_by_an_agent_that_stops_is_not_lost_on_it(nc, names):
    stopping, other = (tickets.Tickets(nc, names, lease_s=60) for _ in range(2))
    await stopping.open()
    await stopping.put("r1", 5, "t")
    ticket = await taken(stopping)
    waiting = asyncio.create_task(stopping.take())  # it has a pull open at the broker
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await stopping.close()
    await ticket.hand_back(0)
    heir = await taken(other)
    assert (heir.run_id, heir.delivered) == ("r1", 2)
    await heir.done()
    await other.close()
