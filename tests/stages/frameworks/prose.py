"""Owns a small table of real text for tests: what functions say of themselves."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import socket
import subprocess

import numpy as np
import pyarrow as pa

from stages import values

SYSTEM = (os, shutil, socket, asyncio, subprocess)


def said(*modules) -> list[str]:
    """Give the first paragraph of each public function's or class's docstring."""
    things = [getattr(module, name) for module in modules for name in sorted(module.__all__)]
    texts = [inspect.getdoc(thing) for thing in things if callable(thing)]
    return list(dict.fromkeys(text.split("\n\n")[0] for text in texts if text and len(text) > 60))


def table(start: int, stop: int) -> values.Table:
    """Give texts of each of two classes."""
    system, numbers = said(*SYSTEM)[start:stop], said(np)[start:stop]
    labels = ["system"] * len(system) + ["numbers"] * len(numbers)
    return values.Table(pa.table({"text": [*system, *numbers], "label": labels}))
