"""Networks of which only the features are known, and pairs of which only the labels are, to follow by hand."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from crossmodal import ENCODERS
from crossmodal.data.manifest import Manifest
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.encoders import Features
from crossmodal.evaluation import Network, Pairs
from modalities import MODALITIES
from modalities.common.random import generator

ENCODER = ENCODERS.get("convnet")((3, 8, 8), 0, width=4, stages=1)
VIEW = View(MODALITIES.get("rgb")(size=8))
LEARN, JUDGE = torch.tensor([0, 1, 1, -1, 0, 1]), torch.tensor([1, 1, 0, -1])


def draw(name: str, *shape: int) -> Tensor:
    """Random numbers that the name and the shape determine."""
    return torch.randn(*shape, generator=generator("measurements", name))


def some(pairs: int, classes: Sequence[str] = ()) -> Shards:
    """Pairs of which only the number and the names of the classes are known."""
    return Shards(Path("none"), Manifest(pairs, [*classes], {}, [], {}))


def labelled(train: Tensor = LEARN, test: Tensor = JUDGE, classes: Sequence[str] = ("a", "b")) -> Pairs:
    """Both parts, with these labels."""
    found = Pairs(some(len(train), classes), some(len(test), classes))
    vars(found)["labels"] = train, test
    return found


def seen(train: Tensor, test: Tensor, logits: Tensor | None = None) -> Network:
    """A network that embeds the two parts so."""
    return Network(ENCODER, VIEW, Features(train, (), None), Features(test, (), logits))
