"""The bus carries orders and replies, and nothing depends on its keeping them."""

from __future__ import annotations

import asyncio
import signal

import pytest

from agent.execution import base
from tests.execution import helpers

pytestmark = pytest.mark.ray


async def outcome_of(executor, use, **how):
    return await executor.run(helpers.work(use, **how), helpers.Watcher())


async def test_a_reply_that_is_too_large_for_the_bus_comes_through_ray(on_bus):
    outcome = await outcome_of(on_bus, "sample.tell", facts=30_000)
    assert isinstance(outcome, base.Succeeded)


async def test_an_order_that_is_too_large_for_the_bus_goes_through_ray(on_bus):
    outcome = await outcome_of(on_bus, "sample.echo", value="x" * 2_000_000)
    assert isinstance(outcome, base.Succeeded)


async def test_an_attempt_begins_and_ends_though_the_bus_has_gone(on_bus, embedded):
    assert isinstance(await outcome_of(on_bus, "sample.noop"), base.Succeeded)
    embedded._process.send_signal(signal.SIGKILL)
    await embedded._process.wait()
    both = await asyncio.gather(*(outcome_of(on_bus, "sample.noop") for _ in "ab"))
    assert all(isinstance(one, base.Succeeded) for one in both)


async def test_a_reply_that_the_bus_loses_comes_through_ray(on_bus, embedded):
    task, _ = await helpers.start(on_bus, helpers.work("sample.sleep", seconds=1.0))
    embedded._process.send_signal(signal.SIGKILL)
    await embedded._process.wait()
    outcome = await asyncio.wait_for(task, helpers.WAIT_S)
    assert isinstance(outcome, base.Succeeded)
