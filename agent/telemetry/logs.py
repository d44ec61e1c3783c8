"""Owns the agent's log: structlog on standard error, as JSON or for a console, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any

import structlog

from agent import config

_PASSWORD_IN_URL = re.compile(r"(\w+://[^\s:/@]*):[^\s@/]+@")
_SECRET_KEYS = ("password", "token", "secret", "seed", "credentials")


def configure(settings: config.Logs) -> None:
    """Set the log up, for structlog and for the libraries that use the standard one."""
    level = getattr(logging, settings.level.upper())
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer(colors=not as_json and sys.stderr.isatty())
    if as_json:
        renderer = structlog.processors.JSONRenderer(sort_keys=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            scrub,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(stream=sys.stderr, level=max(level, logging.WARNING), force=True)


def scrub(_: Any, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take passwords and the like out of a log entry."""
    for key, value in entry.items():
        if any(word in key.lower() for word in _SECRET_KEYS):
            entry[key] = "(hidden)"
        elif isinstance(value, str):
            entry[key] = _PASSWORD_IN_URL.sub(r"\1:(hidden)@", value)
    return entry
