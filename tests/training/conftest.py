"""Owns nothing of its own: the bus and the specialist of the specialist's tests."""

from __future__ import annotations

from tests.specialist.conftest import asker, server_url, specialist

__all__ = ["asker", "server_url", "specialist"]
