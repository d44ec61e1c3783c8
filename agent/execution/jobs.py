"""Owns what the executor on Ray knows of one attempt."""

from __future__ import annotations

from agent.execution import base, bench, boards, calls, hands


class Job:
    """One attempt from its queueing to its end."""

    def __init__(self, watcher: base.Watcher, *, heritable: bool) -> None:
        self.heritable = heritable
        self.asked: bench.Waiting | None = None
        self.hand: hands.Hand | None = None
        self.call: calls.Call | None = None
        """On its worker; None until it is sent there."""
        self.forced = False
        self.to_stop = False
        self._watcher = watcher
        self._seen = 0

    def began(self) -> None:
        """Take note that it is the attempt's turn."""
        self._watcher.began()

    def tell(self, news: list[boards.Told]) -> int:
        """Pass on what was not told yet; give the number of the last."""
        for told in news:
            if told.number > self._seen:
                self._seen = told.number
                self._pass_on(told)
        return self._seen

    def _pass_on(self, told: boards.Told) -> None:
        if told.note:
            self._watcher.note(told.text, told.details)
        else:
            self._watcher.progress(told.fraction, told.text, told.details)
