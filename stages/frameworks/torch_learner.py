"""Owns how a PyTorch classifier is trained for an epoch: batches, freezing, precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from stages.frameworks import epochs

if TYPE_CHECKING:
    import torch

Batch = Annotated[int, msgspec.Meta(ge=4, le=65_536)]


class Settings(epochs.Pace, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every PyTorch classifier is trained by."""

    batch_size: Batch = 32
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    """Of the first epoch; it falls to zero along half a cosine."""
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 1e-2
    freeze_epochs: Annotated[int, msgspec.Meta(ge=0)] = 1
    """Epochs at the start in which only a pretrained network's head is trained."""
    mixed_precision: bool = True
    """bfloat16 where a GPU has it; never on a CPU."""


class Learner:
    """Trains one network. Equal seeds train equally on a CPU, also across a restart."""

    def __init__(
        self,
        network: torch.nn.Module,
        body: list[torch.nn.Module],
        logits: Callable[[Any, torch.Generator | None], torch.Tensor],
        parts: epochs.Parts,
        *,
        settings: Settings,
        seed: int,
    ) -> None:
        """Take a network whose `body` is frozen at the start.

        `logits` runs it on these rows, varied by the generator in training.
        """
        import torch

        self._network = network
        self._body = body
        self._logits = logits
        self._parts = parts
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
        for rows in self._batches(self._shuffled(generator)):
            with self._precision():
                found = self._logits(rows, generator)
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

    def _shuffled(self, generator: torch.Generator) -> Any:
        import torch

        order = torch.randperm(len(self._parts.train), generator=generator)
        return self._parts.train[order.numpy()]

    def _batches(self, rows: Any) -> Iterator[Any]:
        """Cut rows into batches of nearly equal size: batch statistics need more than one row."""
        import numpy as np

        yield from np.array_split(rows, math.ceil(len(rows) / self._settings.batch_size))

    def _precision(self) -> Any:
        import torch

        cuda = self._device.type == "cuda"
        able = cuda and self._settings.mixed_precision and torch.cuda.is_bf16_supported()
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=able)

    def probabilities(self) -> Any:
        """Predict the validation rows."""
        import numpy as np

        self._network.eval()
        found = [
            probabilities(self._logits, rows) for rows in self._batches(self._parts.validation)
        ]
        return np.concatenate(found)

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


def probabilities(logits: Callable[[Any, torch.Generator | None], torch.Tensor], rows: Any) -> Any:
    """Predict rows with a network in evaluation mode: an array of rows and classes."""
    import torch

    with torch.inference_mode():
        return logits(rows, None).double().softmax(dim=1).cpu().numpy()


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().numpy().copy()


def _mixed(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**63
