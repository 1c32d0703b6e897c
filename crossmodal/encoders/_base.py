"""The interface of an encoder, and what it gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Features(NamedTuple):
    """What an encoder says of a batch."""

    embedding: Float[Tensor, "batch dim"]  # pooled, before any classifier; not unit length
    maps: tuple[Float[Tensor, "batch _ _ _"], ...]  # one a stage, as it leaves the stage
    logits: Float[Tensor, "batch classes"] | None  # None where the encoder has no classifier
    stem: Float[Tensor, "batch _ _ _"] | None = None  # what enters the first stage; None where the encoder tells none
    preactivations: tuple[
        Float[Tensor, "batch _ _ _"], ...
    ] = ()  # what the maps' own or next ReLU sees; empty: not told


def cat_features(pieces: Sequence[Features]) -> Features:
    """The features of a batch from those of its pieces."""
    if len(pieces) == 1:
        return pieces[0]
    embedding, maps, logits, stem, before = zip(*pieces, strict=True)
    return Features(
        torch.cat(embedding),
        tuple(torch.cat(each) for each in zip(*maps, strict=True)),
        None if logits[0] is None else torch.cat(logits),
        None if stem[0] is None else torch.cat(stem),
        tuple(torch.cat(each) for each in zip(*before, strict=True)),
    )


@dataclass(frozen=True)
class Spec:
    """The sizes of an encoder's features, for whoever builds heads on them."""

    dim: int  # of the embedding
    maps: tuple[tuple[int, int, int], ...]  # channels, height, width of each stage
    classes: int  # 0: no logits
    stem: tuple[int, int, int] | None = None  # channels, height, width of what enters the first stage
    preactivations: bool = False  # whether the maps are also given before their ReLU


@dataclass(frozen=True)
class Published:
    """What a network was published for: square pictures of `size`, RGB in [0, 1] less `mean`, over `std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int = 224  # pixels of a side in the publisher's evaluation


IMAGENET = Published((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's networks

Leave = Callable[[Tensor], Tensor]


def stay(picture: Tensor) -> Tensor:
    """The same: nothing happens between two stages."""
    return picture


class Encoder(nn.Module, ABC):
    """A network from a modality's normalised batch to `Features`.

    Entries are built as ``Entry(shape, classes, **options)``: `shape` is the modality's, `classes` the number of logits
    (0: no classifier), and the keyword-only options are what a config may set.
    """

    stem: str  # name, in the trunk's state, of the weight that meets the input's channels
    classifier: str  # prefix, in the trunk's state, of the weights that give logits
    trunk: nn.Module  # the part that published weights are made for
    other_names: Mapping[str, str] = {}  # pieces of names in published files of another maker, and what they are here
    spec: Spec  # sizes of what `forward` gives
    leaves: ClassVar[bool] = True  # False: its stages cannot be taken apart
    ends_in_map: ClassVar[bool] = True  # False: weights of its own lie between the last map and the embedding

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """What published weights for these options expect of RGB; None where no such weights are known."""
        return None

    @abstractmethod
    def forward(self, batch: Float[Tensor, "batch *shape"], leave: Leave = stay) -> Features:
        """The features of a normalised batch.

        Each stage's map is handed to `leave` as soon as it is there, and the next stage, or the embedding, goes on
        from what that gives, where the encoder `leaves`.
        """
