"""Who is next among runs that wait, and that no requester keeps the others from their turn."""

from __future__ import annotations

import asyncio

import pytest

from agent.bus import tickets
from agent.conductor import backlog, index
from protocol import codec, events
from tests.bus.conftest import names, nc
from tests.conductor import test_index as facts

__all__ = ["names", "nc"]
MINE = backlog.Share("mine", 5)
OTHER = backlog.Share("other", 5)


def waiting(count, share=MINE, window=2):
    line = backlog.Backlog("me", window)
    line.complete.set()
    stood = [line.join(f"r{number}", share) for number in range(count)]
    return line, stood


def test_only_the_first_of_a_requester_stand_in_the_queue():
    line, stood = waiting(4)
    assert stood == [True, True, False, False]
    assert line.behind == 2
    assert line.join("o0", OTHER)
    assert line.join("p0", backlog.Share("mine", 9))


def test_the_order_is_that_of_coming_and_coming_twice_changes_nothing():
    line, _ = waiting(3)
    assert line.join("r0", MINE)
    assert not line.join("r2", MINE)
    assert line.behind == 1


def test_what_is_begun_has_its_place_whoever_else_waits():
    line, _ = waiting(3)
    line.leave("r2")
    assert line.stands("r2")
    assert line.stands("unheard of")


@pytest.fixture
async def queue(nc, names):
    opened = tickets.Tickets(nc, names, lease_s=1.0)
    await opened.open()
    yield opened
    await opened.close()


async def moved(line, queue):
    """Let all that moved up be put into the queue; give what is there."""
    serving = asyncio.create_task(line.serve(queue))
    async with asyncio.timeout(10):
        while not line._moved.empty():  # noqa: ASYNC110 - nothing else tells of it
            await asyncio.sleep(0.01)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return await queue.queued()


async def test_the_next_one_moves_up_as_one_begins_here(queue):
    line, _ = waiting(4)
    line.leave("r0", "me")
    assert await moved(line, queue) == {"r2"}
    line.leave("r1", "me")
    assert await moved(line, queue) == {"r2", "r3"}
    line.leave("r2", "me")
    line.leave("r3", "me")
    assert line.behind == 0


async def test_whoever_began_a_run_sees_to_the_next_one(queue):
    line, _ = waiting(4)
    line.leave("r0", "another")
    assert line.stands("r2")
    assert await moved(line, queue) == set()


async def test_one_that_ends_while_it_waits_behind_moves_nobody_up(queue):
    line, _ = waiting(5)
    line.leave("r3", "me")
    assert await moved(line, queue) == set()
    line.leave("r0", "me")
    assert await moved(line, queue) == {"r2"}


async def test_a_run_that_was_not_stored_makes_way_again(queue):
    line, _ = waiting(1)
    with line.joining("new", MINE) as joined:
        assert joined.stands
        assert not line.join("later", MINE)
    assert not line.knows("new")
    assert line.stands("later")
    assert await moved(line, queue) == {"later"}
    with line.joining("kept", MINE) as joined:
        assert not joined.stands
        joined.kept = True
    assert line.knows("kept")
    with pytest.raises(RuntimeError), line.joining("broken", MINE):
        raise RuntimeError
    assert not line.knows("broken")


def test_a_proven_name_and_a_claimed_one_are_two():
    assert backlog.share("ada", None, 5) != backlog.share("x", "ada", 5)
    assert backlog.share("x", "ada", 5) == backlog.share("y", "ada", 5)


async def test_the_index_tells_who_waits():
    line = backlog.Backlog("me", window=1)
    listing = index.Index(line)
    for number in range(3):
        await facts.folded(
            facts.accepted(run_id=f"r{number}"), listing=listing, run_id=f"r{number}"
        )
    assert (line.behind, line.stands("r1")) == (2, False)
    assert set(listing.stirring(facts.START)) == {"r0"}
    begun = events.Commit("r0", 2, 1, "another", facts.START, "", [facts.RUNNING])
    await listing.take("r0", codec.encode(begun))
    assert (line.knows("r0"), line.stands("r1")) == (False, True)
    assert set(listing.stirring(facts.START)) == {"r0", "r1"}
    await facts.folded(facts.ASKED, facts.CANCELLED, listing=listing, run_id="r1")
    assert line.behind == 0
