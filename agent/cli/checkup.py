"""Owns the doctor's questions to what is running: does the agent answer, does a specialist."""

from __future__ import annotations

import asyncio
import secrets

import nats.errors

from agent import address, doctor
from agent.bus import connection
from agent.cli import connect, console, session
from protocol import codec, credentials, permissions, subjects, training

TIMEOUT_S = 3.0
UP = "start one with: mlpm up"


def ask(here: session.Session) -> list[doctor.Finding]:
    """Ask, if an agent should be running; that none is, is only a warning."""
    try:
        where = here.find_agent()
    except console.Stop as stop:
        return [doctor.Finding("agent", "warn", stop.problem.message, UP)]
    return asyncio.run(_ask(here, where))


async def _ask(here: session.Session, where: address.Address) -> list[doctor.Finding]:
    try:
        async with connect.connected(where, here.settings, timeout_s=TIMEOUT_S) as agent:
            cards = await agent.catalog()
            found = [doctor.Finding("agent", "ok", f"answers, with {len(cards.stages)} stages")]
            return [*found, await _specialist(where, here)]
    except console.Stop as stop:
        level: doctor.Level = "warn" if stop.problem.code == "unavailable" else "fail"
        return [doctor.Finding("agent", level, stop.problem.message, UP)]


async def _specialist(where: address.Address, here: session.Session) -> doctor.Finding:
    """Ask after a training that never was: only a specialist that listens answers `unknown`."""
    names = subjects.Subjects(where.prefix)
    question = training.TrainingCancel(f"doctor-{secrets.token_hex(4)}", "check-up")
    who = connection.who(here.settings.nats, permissions.OPERATOR)
    bus = await credentials.connect(where.nats_url, who)
    try:
        asked = codec.encode(question)
        reply = await credentials.ask(bus, names.training_cancel, asked, timeout=TIMEOUT_S)
        status = codec.decode(reply.data, training.TrainingStatus)
    except credentials.NotPermitted:
        return doctor.Finding("specialist", "ok", "not asked: the bus lets agents alone ask it")
    except nats.errors.Error as error:
        mend = "see specialist.log in the data folder, or start your ML-Training-Specialist"
        return doctor.Finding("specialist", "fail", f"does not answer ({error})", mend)
    finally:
        await bus.close()
    return doctor.Finding("specialist", "ok", f"answers ({status.state} training)")
