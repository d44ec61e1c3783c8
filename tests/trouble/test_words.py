"""What is said of trouble, and what is left of a write that failed."""

from __future__ import annotations

import pytest

from agent import address
from agent.bus import endpoints, journal


@pytest.mark.parametrize("error", [journal.Unavailable("no room"), TimeoutError()])
def test_a_bus_that_stores_nothing_is_unavailable_and_worth_another_try(error):
    problem = endpoints.problem_of(error)
    assert (problem.code, problem.retryable) == ("unavailable", True)
    assert problem.hint


def test_what_broke_in_the_agent_is_not_told():
    problem = endpoints.problem_of(ValueError("secret"))
    assert problem.code == "internal"
    assert "secret" not in problem.message


def test_a_full_disk_leaves_the_address_as_it_was(small_disk):
    folder = small_disk.folder / "data"
    folder.mkdir()
    before = address.Address("nats://127.0.0.1:1", 1)
    with address.noted(folder, before):
        small_disk.fill()
        with pytest.raises(OSError, match="No space left"):
            address.noted(folder, address.Address("nats://127.0.0.1:2", 2)).__enter__()
        assert address.read(folder) == before
        assert [path.name for path in folder.iterdir()] == [address.FILE]
