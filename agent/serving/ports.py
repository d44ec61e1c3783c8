"""Owns the shutting of a door: each replica of Ray Serve listens on all of a machine's addresses.

Ray 2.60 opens a gRPC port in every replica for calls between deployments, which asks for no token
and unpickles what it gets: whoever reaches it runs anything. We call through Ray itself, which asks
for the token, so that nobody needs that port, and none is opened.
"""

from __future__ import annotations

import sys
from typing import Any

_REPLICAS = "ray.serve._private.replica"
_OPENING = "add_port_to_grpc_server"
_NO_PORT = 0


class DoorUnknown(Exception):
    """This version of Ray opens the port in another way, which has to be looked at first."""

    def __init__(self) -> None:
        super().__init__(f"{_REPLICAS} of this version of Ray has no {_OPENING}")


def open_none() -> None:
    """Have the replica that this process is about to become open no port of its own."""
    replicas: Any = sys.modules.get(_REPLICAS)
    if replicas is None:  # it is not Serve that called us
        return
    if not hasattr(replicas, _OPENING):
        raise DoorUnknown
    setattr(replicas, _OPENING, lambda *_: _NO_PORT)
