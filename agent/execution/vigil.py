"""Owns the watch over a Ray cluster: once its head is gone, nothing that hangs on it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import threading

ASK_EVERY_S = 0.5
LOOK_EVERY_S = 1.0
LOST_AFTER_S = 5.0
"""A driver of Ray itself gives up after a minute; until then it takes work that nobody does."""


class ClusterLost(Exception):
    """The Ray cluster that the agent was connected to is gone; a supervisor may start it anew."""

    def __init__(self, address: str) -> None:
        super().__init__(f"the Ray cluster at {address} has not answered for {LOST_AFTER_S:g} s")
        self.address = address


class Vigil:
    """Asks the cluster again and again whether it still knows this driver's node."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost = False
        """The cluster is gone."""
        self._answers = 0
        self._over = threading.Event()
        # A question to a head that is gone does not come back for a minute: nobody may wait for it.
        self._looking = threading.Thread(target=self._look, name="vigil", daemon=True)
        self._looking.start()

    async def wait_lost(self) -> None:
        """Return once the cluster is gone, be it that another has taken its address.

        Looks in vain are counted, not seconds: an agent that was frozen for long must ask first.
        """
        in_vain = 0
        while in_vain * LOOK_EVERY_S < LOST_AFTER_S:
            answers = self._answers
            await asyncio.sleep(LOOK_EVERY_S)
            in_vain = 0 if self._answers > answers else in_vain + 1
        self.lost = True

    def end(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        import ray

        here = ray.get_runtime_context().get_node_id()
        while not self._over.wait(ASK_EVERY_S):
            with contextlib.suppress(Exception):  # an answer that fails is none
                if any(node["Alive"] and node["NodeID"] == here for node in ray.nodes()):
                    self._answers += 1
