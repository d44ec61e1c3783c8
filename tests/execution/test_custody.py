"""A worker that may outlive its agent: whose it is, and when it ends."""

from __future__ import annotations

import msgspec
import pytest

from agent.execution import custody
from tests.execution import helpers

TERMS = custody.Terms("first", silent_s=10.0, kept_s=60.0)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def held(clock):
    return custody.Custody(TERMS, clock)


def under(piece, epoch):
    return msgspec.structs.replace(piece, epoch=epoch, adopt=True)


def sealed(_number):
    return True


def test_an_idle_worker_is_over_once_its_agent_was_silent_for_long(held, clock):
    clock.now += 9
    assert held.sign("first")
    clock.now += 10
    assert not held.is_over()
    clock.now += 0.1
    assert held.is_over()


def test_a_worker_finishes_what_it_is_at_and_keeps_the_result(held, clock):
    held.begin(1, helpers.work("sample.noop"))
    clock.now += 1000
    assert not held.is_over()
    held.end()
    clock.now += 60
    assert not held.is_over()
    clock.now += 0.1
    assert held.is_over()


def test_a_result_that_its_agent_had_long_ago_is_not_kept(held, clock):
    held.begin(1, helpers.work("sample.noop"))
    held.end()
    clock.now += 10
    assert held.sign("first")
    clock.now += 10.1
    assert held.is_over()


def test_an_attempt_is_given_to_one_of_each_epoch_and_to_none_of_an_older(held):
    piece = helpers.work("sample.noop")
    held.begin(3, piece)
    assert held.claim(under(piece, 2), "second", sealed) == 3
    assert held.claim(under(piece, 2), "third", sealed) == 0
    assert held.claim(under(piece, 1), "first", sealed) == 0
    assert held.claim(under(piece, 3), "third", sealed) == 3


def test_whoever_held_it_before_holds_it_no_longer(held):
    piece = helpers.work("sample.noop")
    held.begin(1, piece)
    assert held.claim(under(piece, 1), "second", sealed)
    assert not held.sign("first")
    assert held.sign("second")


def test_only_the_very_attempt_is_given(held):
    piece = helpers.work("sample.echo", value=1)
    held.begin(1, piece)
    other = msgspec.structs.replace(piece, params={"value": 2})
    assert held.claim(under(other, 1), "second", sealed) == 0
    assert held.claim(under(piece, 1), "second", lambda _: False) == 0
    assert held.sign("first")
