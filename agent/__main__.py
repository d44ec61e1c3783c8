"""Owns `python -m agent`: the same as `mlpm`."""

from agent import cli

cli.main()
