"""A run whose journal nobody can read: looked at for a while, told of, and then left alone."""

from __future__ import annotations

import structlog

from agent.bus import journal, tickets
from tests.ownership import world


class Garbled(world.World):
    """A world in which something else stands where a run's first commit should."""

    def _submit(self, number, priority=5):
        client = self._outsider()

        async def submit():
            journals = journal.Journal(client, world.NAMES)
            await journals.append(f"run-{number}", b"no commit", expected=0)
            await tickets.Tickets(client, world.NAMES, world.LEASE_S).put(
                f"run-{number}", priority, "t"
            )

        self.broker.loop.create_task(submit())

    def _over(self):
        return False


def test_it_is_told_of_once_and_let_go():
    with structlog.testing.capture_logs() as logged:
        played = Garbled(world.Script(agents=2)).play()
    looks = [one for one in logged if one["event"] == "journal.unreadable"]
    assert 20 <= len(looks) < 30
    assert "cannot be read" in looks[0]["reason"]
    told = [agent._host.unreadable for agent in played.agents]
    assert sorted(map(sorted, told)) == [[], ["run-0"]]  # whoever had the last look tells
    assert not played.broker.streams[world.NAMES.tickets_stream].messages
