"""The interface of an encoder, and its output."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Features(NamedTuple):
    """The output of an encoder for a batch."""

    embedding: Float[Tensor, "batch dim"]  # pooled, before the classifier; not normalised to unit length
    maps: tuple[Float[Tensor, "batch _ _ _"], ...]  # output of each stage
    logits: Float[Tensor, "batch classes"] | None  # None if the encoder has no classifier
    stem: Float[Tensor, "batch _ _ _"] | None = None  # input of the first stage; None if not available
    preactivations: tuple[Float[Tensor, "batch _ _ _"], ...] = ()  # maps before their ReLU; empty: not available


def cat_features(pieces: Sequence[Features]) -> Features:
    """The features of a batch, from those of its pieces."""
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
    """The sizes of an encoder's features, for building heads on them."""

    dim: int  # size of the embedding
    maps: tuple[tuple[int, int, int], ...]  # channels, height, width of each stage
    classes: int  # 0: no logits
    stem: tuple[int, int, int] | None = None  # channels, height, width of the first stage's input
    preactivations: bool = False  # true: the maps are also given before their ReLU


@dataclass(frozen=True)
class Published:
    """The input a published network expects: square pictures of `size`, (RGB in [0, 1] - `mean`) / `std`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int = 224  # side in the publisher's evaluation, in pixels
    interpolation: str | None = None  # by which the publisher resizes, as "bicubic"; None: not stated
    crop: float | None = None  # share of a picture's shorter side in the publisher's evaluation; None: not stated


IMAGENET = Published((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's networks

Leave = Callable[[Tensor], Tensor]


def stay(picture: Tensor) -> Tensor:
    """The default of `leave`: returns the map unchanged."""
    return picture


class Encoder(nn.Module, ABC):
    """A network from a modality's normalised batch to `Features`.

    Entries are built as ``Entry(shape, classes, **options)``: `shape` is the modality's, `classes` the number of logits
    (0: no classifier), and the keyword-only options are what a config may set.
    """

    stem: str  # name in the trunk's state of the first layer's weight, whose size depends on the channels
    classifier: str  # prefix in the trunk's state of the classifier's weights
    trunk: nn.Module  # the part that published weights are loaded into
    other_names: Mapping[str, str] = {}  # piece of a name in another publisher's files -> our name
    spec: Spec  # sizes of the output
    block_names: tuple[str, ...] = ()  # modules of which the network is a chain: `picture.finish` finds them
    added: ClassVar[tuple[str, ...]] = ()  # options of later versions; runs record them only where they are given
    leaves: ClassVar[bool] = True  # False: `leave` is never called
    ends_in_map: ClassVar[bool] = True  # False: further weights lie between the last map and the embedding

    @property
    def blocks(self) -> list[nn.Module]:
        """The repeated parts of the network, such as a transformer's layers; empty if it has none."""
        return [self.get_submodule(name) for name in self.block_names]

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """The RGB input that published weights for these options expect; None if no such weights are known."""
        return None

    def rename(self, table: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file of weights by the trunk's names, as far as other names are known."""
        renamed = dict(table)
        for theirs, ours in self.other_names.items():
            renamed = {name.replace(theirs, ours): value for name, value in renamed.items()}
        return renamed

    def convert(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published tensors that do not fit, as the library that the trunk is of converts them; unchanged if it cannot.

        Examples are position embeddings of other picture sizes, and the names of another publisher.
        """
        return table

    @abstractmethod
    def forward(self, batch: Float[Tensor, "batch *shape"], leave: Leave = stay) -> Features:
        """The features of a normalised batch.

        If the encoder `leaves`, it calls `leave` with each stage's map, and the next stage, or the embedding, continues
        with the return value.
        """
