"""Owns the forecast of what a run would take from the cache, without running anything."""

from __future__ import annotations

from agent import catalog
from agent.artifacts import cache
from protocol import commands, pipelines
