"""Owns what runs inside a Ray worker: one attempt after the other, watched from a second thread."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pathlib
import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import structlog

from agent.artifacts import objects, sources, store
from agent.execution import attempt, base, boards, capture, custody, lines, trays
from agent.run import effects
from protocol import problems
from stages import kit, registry

_HEADROOM = 32 * 2**20
"""Beyond a stage's limit: for Ray's own threads, which do not survive a refused allocation."""
LISTENING = "listening"
"""The concurrency group of the calls that are answered while an attempt runs."""


class Setup(msgspec.Struct, frozen=True):
    """What a worker is told once, when it starts."""

    store_uri: str
    local: str
    services: kit.Services
    modules: tuple[str, ...] = ()
    bus: lines.Access | None = None
    """None where attempts come through Ray alone."""
    terms: custody.Terms | None = None
    """None where the worker ends with its agent."""


class Identity(msgspec.Struct, frozen=True):
    """Which process a worker is; the creation time tells it from a later one of the same pid."""

    pid: int
    created: float
    host: str
    node: str
    listens: bool = False
    """Orders can come over the bus."""

    @property
    def where(self) -> str:
        """Say it in words."""
        return f"pid {self.pid} on {self.host}"


class Claimed(msgspec.Struct, frozen=True):
    """An attempt that was given to the run's next owner, and who is at it."""

    number: int
    identity: Identity


class Success(base.Succeeded, frozen=True, tag="succeeded"):
    """As it crosses from the worker."""


class Failure(base.Failed, frozen=True, tag="failed"):
    """As it crosses from the worker."""


class Halt(base.Halted, frozen=True, tag="halted"):
    """As it crosses from the worker."""


class Reply(msgspec.Struct, frozen=True):
    """How an attempt ended, and all it noted."""

    outcome: Success | Failure | Halt
    notes: list[boards.Told] = []


_CROSSING: dict[type, Any] = {
    base.Succeeded: Success,
    base.Failed: Failure,
    base.Halted: Halt,
}


class Worker:
    """Becomes a Ray actor in `pool`. Bytes come in and bytes go out: nothing of ours is pickled."""

    def __init__(self, setup: bytes, subject: str) -> None:
        told = msgspec.msgpack.decode(setup, type=Setup)
        for module in told.modules:
            registry.register(importlib.import_module(module))
        sources.freeze(registry.stages().values())
        logging.getLogger().setLevel(logging.INFO)
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
        self._store = store.Store(told.store_uri, pathlib.Path(told.local), _access(told.bus))
        self._services = told.services
        self._board = boards.Board()
        self._tray = trays.Tray()
        self._ear = lines.Ear(told.bus, subject, self._tray.put) if told.bus else None
        self._custody = custody.Custody(told.terms) if told.terms else None
        if told.terms:
            watch = threading.Thread(target=self._watch, args=(told.terms,), daemon=True)
            watch.start()

    def identify(self) -> bytes:
        """Say which process this is, once it is ready."""
        listens = self._ear is not None and self._ear.listens()
        return msgspec.msgpack.encode(_identity(listens=listens))

    def serve(self) -> None:
        """Run one attempt after the other, for as long as the process lives."""
        while True:
            order, place = self._tray.wait_order()
            reply = self._replied(order)
            if place and self._ear is not None:
                self._ear.answer(place, reply)
            self._tray.finish(order.number, reply)

    def _replied(self, order: lines.Order) -> bytes:
        try:
            return self._run(order.work, order.number)
        except Exception as error:  # noqa: BLE001 - the next attempt must find a worker that serves
            code: problems.Code = "out_of_memory" if isinstance(error, MemoryError) else "internal"
            message = f"the attempt could not be told of: {type(error).__name__}"
            problem = problems.Problem(code, message, retryable=True)
            return msgspec.msgpack.encode(Reply(Failure(problem)))

    def answer(self, order: bytes) -> bytes:
        """Give the reply to an attempt, once there is one; begin it if its order never came."""
        asked = lines.read_order(order)
        self._tray.put(asked, "")
        return self._tray.wait_reply(asked.number)

    def _run(self, payload: bytes, number: int) -> bytes:
        work = msgspec.msgpack.decode(payload, type=effects.Work)
        board = self._board
        board.open(number)
        if self._custody:
            self._custody.begin(number, work)
        trial = attempt.Attempt(
            work,
            self._store,
            self._services,
            capture.OfProcess,
            report=board.progress,
            note=board.note,
            stopped=lambda: board.stopped(number),
        )
        try:
            with _memory(work.resources.memory_bytes):
                outcome = trial.run()
            return msgspec.msgpack.encode(Reply(_crossing(outcome), board.notes()))
        finally:
            board.close()
            if self._custody:
                self._custody.end()

    def stop(self, number: int, holder: str) -> None:
        """Ask an attempt to stop, now or as soon as it begins; not for one who holds it no more."""
        if self.sign(holder):
            self._board.stop(number)

    def sign(self, holder: str) -> bool:
        """Take a sign of life of the agent; False if the worker is another's now."""
        return self._custody is None or self._custody.sign(holder)

    def at(self) -> bytes:
        """Give the attempt that it is at, or was at last."""
        return msgspec.msgpack.encode(self._custody.at() if self._custody else None)

    def claim(self, work: bytes, holder: str) -> bytes:
        """Go on with an attempt for the run's next owner; nothing if it is not at it."""
        wanted = msgspec.msgpack.decode(work, type=effects.Work)
        held = self._custody
        number = held.claim(wanted, holder, self._tray.seal) if held else 0
        return msgspec.msgpack.encode(Claimed(number, _identity())) if number else b""

    def _watch(self, terms: custody.Terms) -> None:
        """End the process, and what it started, once nobody wants it any more."""
        import psutil

        while self._custody is not None and not self._custody.is_over():
            time.sleep(terms.sign_s)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(0)

    def withdraw(self, number: int) -> bool:
        """Have an attempt not begin; False if it has."""
        return self._tray.withdraw(number)

    def listen(self, number: int, seen: int, patience_s: float) -> bytes:
        """Wait until the attempt has told more than `seen`, has ended, or patience has."""
        return msgspec.msgpack.encode(self._board.wait_news(number, seen, patience_s))


def _identity(*, listens: bool = False) -> Identity:
    import psutil
    import ray

    pid = os.getpid()
    created = psutil.Process(pid).create_time()
    node = ray.get_runtime_context().get_node_id()
    return Identity(pid, created, platform.node(), node, listens)


def _access(bus: lines.Access | None) -> objects.Access | None:
    return objects.access(bus.url, bus.settings) if bus else None


@contextlib.contextmanager
def _memory(limit: int | None) -> Iterator[None]:
    """Let the attempt allocate only so much beyond what the worker has already."""
    if limit is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = _data_size() + limit + _HEADROOM
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_size() -> int:
    import psutil

    return int(psutil.Process().memory_info().data)


def _crossing(outcome: base.Outcome) -> Any:
    fields = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
    return _CROSSING[type(outcome)](**fields)


def decode_reply(data: bytes) -> tuple[base.Outcome, list[boards.Told]]:
    """Read what `Worker.run` returned."""
    reply = msgspec.msgpack.decode(data, type=Reply)
    return reply.outcome, reply.notes
