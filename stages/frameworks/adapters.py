"""Owns the list of frameworks, by name; and what any of them needs before a model is loaded."""

from __future__ import annotations

from stages import cards
from stages.frameworks import base, faults, sklearn, torch_images, transformers_text

_ALL: tuple[base.Framework, ...] = (
    sklearn.Sklearn(),
    torch_images.TorchImages(),
    transformers_text.TransformersText(),
)
_BY_NAME = {name: each for each in _ALL for name in each.names}


def names() -> list[str]:
    """Name the frameworks."""
    return list(_BY_NAME)


def named(name: str) -> base.Framework:
    """Look a framework up. Raises faults.UnknownName."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise faults.UnknownName("framework", name, _BY_NAME, "$.framework") from None


def of(card: cards.ModelCard) -> base.Framework:
    """Give the framework of a model; raise UntrustedModel or faults.OtherVersion."""
    if card.framework not in _BY_NAME:
        reason = f"there is no framework {card.framework!r}"
        raise cards.UntrustedModel(reason)
    framework = _BY_NAME[card.framework]
    library = framework.libraries[0]
    made = card.libraries.get(library)
    here = cards.library_versions(library)[library]
    if made is not None and made.partition(".")[0] != here.partition(".")[0]:
        raise faults.OtherVersion(library, made, here)
    return framework
