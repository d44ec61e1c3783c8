"""Owns small documents that travel inside their own reference, as a `data:` URI (RFC 2397).

They are as durable as whatever keeps the reference, so that storing one costs nothing.
"""

from __future__ import annotations

import base64
import binascii

from agent.artifacts import errors, files
from protocol import artifacts

MOST_BYTES = 1024
"""A journal's commit holds hundreds of references, and must stay under the bus's limit."""
_SCHEME = "data:"


def uri(media_type: str, data: bytes) -> str:
    """Write bytes as a URI."""
    return f"{_SCHEME}{media_type};base64,{base64.b64encode(data).decode()}"


def holds(ref: artifacts.ArtifactRef) -> bool:
    """Tell whether a reference carries its bytes."""
    return ref.uri.startswith(_SCHEME)


def read(ref: artifacts.ArtifactRef) -> bytes:
    """Give the bytes that a reference carries; raise ArtifactCorrupt if they are not its own."""
    try:
        data = base64.b64decode(ref.uri.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise errors.ArtifactCorrupt(ref.digest, _SCHEME, "nothing") from error
    found = files.digest_of(data)
    if found != ref.digest or len(data) != ref.size_bytes:
        raise errors.ArtifactCorrupt(ref.digest, _SCHEME, found)
    return data
