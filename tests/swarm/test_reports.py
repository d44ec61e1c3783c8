"""The first report of an assignment is kept, and nobody is told so of one that is not."""

from __future__ import annotations

import nats.js.errors
import pytest

from agent.swarm import reports
from protocol import swarm


def told(name, agent="one"):
    return swarm.StageReport(name, agent, "succeeded")


async def test_a_second_report_is_refused(nc, names):
    kept = reports.Reports(nc, names)
    assert await kept.give(told("a"))
    assert not await kept.give(told("a", "two"))
    assert (await kept.read("a")).agent == "one"


async def test_a_stream_that_stores_nothing_has_no_report_already(nc, names):
    kept, js = reports.Reports(nc, names), nc.jetstream()
    await kept.give(told("a"))
    full = (await js.stream_info(names.reports_stream)).config
    full.max_msgs = 1
    await js.update_stream(full)
    with pytest.raises(nats.js.errors.APIError) as refused:
        await kept.give(told("b"))
    assert refused.value.err_code == 10077
    assert await kept.read("b") is None
