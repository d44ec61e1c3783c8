"""Owns how a PyTorch classifier is trained for an epoch: batches, freezing, precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec

from stages.frameworks import epochs

if TYPE_CHECKING:
    import torch

POOL = 20
"""Batches among whose rows those of like length are looked for."""
Batch = Annotated[int, msgspec.Meta(ge=4, le=65_536)]
Epochs = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(gt=0)]


class Settings(epochs.Pace, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every PyTorch classifier is trained by."""

    batch_size: Batch = 32
    learning_rate: Rate = 1e-3
    """Of the first epoch; it falls to zero along half a cosine."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-2
    freeze_epochs: Epochs = 1
    """Epochs at the start in which only a pretrained network's head is trained."""
    mixed_precision: bool = True
    """bfloat16 where a GPU has it; never on a CPU."""


class Inputs(Protocol):
    """The rows of a table as a network takes them."""

    lengths: Any
    """Of each row, where they differ: rows of like length are put into one batch."""

    def logits(
        self, network: torch.nn.Module, rows: Any, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Run the network on rows, varied by the generator in training."""


class Learner:
    """Trains one network. Equal seeds train equally on a CPU, also across a restart."""

    def __init__(
        self,
        network: torch.nn.Module,
        inputs: Inputs,
        parts: epochs.Parts,
        *,
        body: list[torch.nn.Module],
        settings: Settings,
        seed: int,
    ) -> None:
        """Take a network whose `body` is frozen at the start."""
        import torch

        self._network = network
        self._inputs = inputs
        self._parts = parts
        self._body = body
        self._settings = settings
        self._seed = seed
        self._device = device()
        self._codes = torch.from_numpy(parts.codes).to(self._device)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )

    def epoch(self, number: int) -> float:
        """Train once over the training rows; give the mean loss."""
        import torch
        from torch.nn import functional

        torch.manual_seed(_mixed(self._seed, number))  # dropout draws from here
        generator = torch.Generator().manual_seed(_mixed(self._seed, number))
        self._set_mode(number)
        total = 0.0
        for rows in self._drawn(generator):
            with self._precision():
                found = self._inputs.logits(self._network, rows, generator)
                loss = functional.cross_entropy(found.float(), self._codes[rows])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            total += loss.item() * len(rows)
        return total / len(self._parts.train)

    def _set_mode(self, number: int) -> None:
        """Set the learning rate, and freeze the body or thaw it."""
        settings = self._settings
        rate = 0.5 * settings.learning_rate * (1 + math.cos(math.pi * number / settings.epochs))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        frozen = number < settings.freeze_epochs
        self._network.train()
        for part in self._body:
            part.train(not frozen)  # a frozen part keeps its running statistics, too
            part.requires_grad_(not frozen)

    def _drawn(self, generator: torch.Generator) -> Iterator[Any]:
        """Give the training rows in batches, in another order each time."""
        import numpy as np
        import torch

        size = self._settings.batch_size
        order = torch.randperm(len(self._parts.train), generator=generator)
        rows = self._parts.train[order.numpy()]
        lengths = self._inputs.lengths
        if lengths is None:
            yield from cut(rows, size)
            return
        pools = cut(rows, size * POOL)
        sort = (pool[np.argsort(lengths[pool], kind="stable")] for pool in pools)
        batches = [batch for pool in sort for batch in cut(pool, size)]
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[place]

    def _precision(self) -> Any:
        import torch

        cuda = self._device.type == "cuda"
        able = cuda and self._settings.mixed_precision and torch.cuda.is_bf16_supported()
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=able)

    def probabilities(self) -> Any:
        """Predict the validation rows."""
        size = self._settings.batch_size
        return probabilities(self._network.eval(), self._inputs, self._parts.validation, size)

    def weights(self) -> epochs.Arrays:
        """Copy the network's weights."""
        return {name: _array(tensor) for name, tensor in self._network.state_dict().items()}

    def state(self) -> epochs.Arrays:
        """Copy the optimiser's moments."""
        held = self._optimizer.state_dict()["state"]
        return {
            f"{n}/{key}": _array(value) for n, each in held.items() for key, value in each.items()
        }

    def restore(self, weights: epochs.Arrays, state: epochs.Arrays) -> None:
        """Go on from a checkpoint."""
        import torch

        self._network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        held: dict[int, dict[str, Any]] = {}
        for name, array in state.items():
            number, _, key = name.partition("/")
            held.setdefault(int(number), {})[key] = torch.from_numpy(array)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": held, "param_groups": groups})


def device() -> torch.device:
    """Give the GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cut(rows: Any, size: int) -> list[Any]:
    """Cut rows into parts of nearly equal size: statistics of a batch need more than one row."""
    import numpy as np

    return np.array_split(rows, math.ceil(len(rows) / size))


def probabilities(network: torch.nn.Module, inputs: Inputs, rows: Any, size: int) -> Any:
    """Predict rows with a network in evaluation mode: an array of rows and classes."""
    import numpy as np
    import torch

    sort = np.arange(len(rows)) if inputs.lengths is None else np.argsort(inputs.lengths[rows])
    with torch.inference_mode():
        found = [inputs.logits(network, part, None) for part in cut(rows[sort], size)]
    sorted_ones = torch.cat(found).double().softmax(dim=1).cpu().numpy()
    return sorted_ones[np.argsort(sort)]


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().numpy().copy()


def _mixed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**63
