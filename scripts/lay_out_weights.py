"""Write where each tensor lies in a `.pth` file of before PyTorch 1.6, so that nobody unpickles it.

A person runs it once for new weights and looks at the result:

    python scripts/lay_out_weights.py DISTRIBUTION PATH-IN-IT EXTRA NETWORK

The file's own pickle is read here with three harmless names allowed; at run time only bytes at
known places are read, of a file whose digest is known.
"""

from __future__ import annotations

import collections
import hashlib
import importlib.metadata
import io
import json
import pathlib
import pickle
import struct
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).parents[1] / "stages" / "frameworks"
KINDS = {"FloatStorage": ("<f4", 4), "LongStorage": ("<i8", 8)}


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> Any:
    kind, key = storage[1], storage[2]
    return kind, key, offset, shape, strides


class Restricted(pickle.Unpickler):
    """Reads dictionaries, numbers and text, and tensors as their description."""

    def find_class(self, module: str, name: str) -> Any:
        """Allow three names."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in KINDS:
            return name
        raise ValueError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> Any:
        """Leave a storage as its description."""
        return pid


def layout(raw: bytes) -> dict[str, list[Any]]:
    """Give offset, type, shape and strides, in bytes, of each tensor."""
    source = io.BytesIO(raw)
    *_, state, keys = [Restricted(source).load() for _ in range(5)]
    kinds = {key: kind for kind, key, *_ in state.values()}
    places = {}
    for key in keys:
        (count,) = struct.unpack("<q", source.read(8))
        places[key] = source.tell()
        source.seek(count * KINDS[kinds[key]][1], io.SEEK_CUR)
    found = {}
    for name, (kind, key, offset, shape, strides) in state.items():
        code, size = KINDS[kind]
        steps = [step * size for step in strides]
        found[name] = [places[key] + offset * size, code, list(shape), steps]
    return found


def main() -> None:
    """Write the layout beside the others."""
    distribution, path, extra, network = sys.argv[1:]
    raw = pathlib.Path(
        str(importlib.metadata.distribution(distribution).locate_file(path))
    ).read_bytes()
    tensors = ",\n".join(f"  {json.dumps(n)}: {json.dumps(t)}" for n, t in layout(raw).items())
    head = {
        "distribution": distribution,
        "version": importlib.metadata.version(distribution),
        "path": path,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "extra": extra,
    }
    text = f'{{"file": {json.dumps(head)}, "tensors": {{\n{tensors}\n}}}}\n'
    (FOLDER / f"{network}.json").write_text(text)


if __name__ == "__main__":
    main()
