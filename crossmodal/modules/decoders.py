"""Light decoders: from the maps of an encoder to numbers at every place, such as the logits of a segmentation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.metrics.probe import FLOOR


class Standardise(nn.Module):
    """Subtracts a mean and divides by a spread, channel by channel; both are buffers, 0 and 1 until they are set."""

    centre: Tensor
    spread: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    def forward(self, picture: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels _ _"]:
        """The standardised map."""
        return (picture - self.centre[:, None, None]) / self.spread[:, None, None]

    def set(self, total: Tensor, squares: Tensor, count: int) -> None:
        """Sets both from sums over `count` places, with the floor of the linear probe; see `FLOOR`."""
        centre = total / count
        spread = (squares / count - centre.square()).clamp(min=0).sqrt()
        floor = FLOOR * spread.mean().item()
        self.centre.copy_(centre)
        self.spread.copy_(spread.clamp(min=floor) if floor else torch.ones_like(spread))


class Decoder(nn.Module, ABC):
    """From several maps of an encoder to `outputs` numbers at each place of the finest of them."""

    def __init__(self, sizes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        if not sizes:
            raise ValueError("a decoder needs at least one map")
        self.sizes = [*sizes]
        self.grid = max((size[1:] for size in sizes), key=math.prod)
        self.standardise = nn.ModuleList(Standardise(channels) for channels, _, _ in sizes)

    def forward(self, maps: Sequence[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch outputs height width"]:
        """The numbers, from maps in the order of `sizes`."""
        return self.decode([layer(picture) for layer, picture in zip(self.standardise, maps, strict=True)])

    @property
    @abstractmethod
    def bias(self) -> Float[Tensor, " outputs"]:
        """The bias of the last layer: the answer where the maps say nothing."""

    @abstractmethod
    def decode(self, maps: list[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch outputs height width"]:
        """The numbers, from standardised maps."""

    @torch.no_grad()
    def measure(self, batches: Iterable[Sequence[Float[Tensor, "_ _ _ _"]]]) -> None:
        """Measures the mean and spread of every channel on training maps, by which the maps are then standardised."""
        sums = [torch.zeros(2, channels, dtype=torch.float64) for channels, _, _ in self.sizes]
        counts = [0] * len(sums)
        for maps in batches:
            for number, picture in enumerate(maps):
                rows = picture.double()
                sums[number] += torch.stack([rows.sum((0, 2, 3)), rows.square().sum((0, 2, 3))]).cpu()
                counts[number] += picture[:, 0].numel()
        for layer, (total, squares), count in zip(self.standardise, sums, counts, strict=True):
            assert isinstance(layer, Standardise)
            layer.set(total, squares, count)

    def resize(self, picture: Float[Tensor, "batch channels _ _"]) -> Float[Tensor, "batch channels height width"]:
        """A map at the finest grid, by bilinear interpolation."""
        return picture if picture.shape[2:] == self.grid else F.interpolate(picture, self.grid, mode="bilinear")


class Linear(Decoder):
    """A 1x1 convolution of each map, resized to the finest grid and summed; it begins at 0."""

    def __init__(self, sizes: Sequence[tuple[int, int, int]], outputs: int) -> None:
        super().__init__(sizes)
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, outputs, 1, bias=not number) for number, (channels, _, _) in enumerate(sizes)
        )
        for weight in self.parameters():
            nn.init.zeros_(weight)

    @property
    def bias(self) -> Float[Tensor, " outputs"]:
        """The bias of the first map's convolution."""
        return self.get_parameter("heads.0.bias")

    def decode(self, maps: list[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch outputs height width"]:
        """Resizing commutes with a 1x1 convolution, so the smaller result is resized."""
        return sum_of(self.resize(head(picture)) for head, picture in zip(self.heads, maps, strict=True))


class Conv(Decoder):
    """The maps, projected to `width` channels, resized and summed, then two 3x3 convolutions with group norm."""

    def __init__(self, sizes: Sequence[tuple[int, int, int]], outputs: int, width: int) -> None:
        super().__init__(sizes)
        self.lateral = _laterals(sizes, width)
        self.head = nn.Sequential(*_block(width), *_block(width), nn.Conv2d(width, outputs, 1))

    @property
    def bias(self) -> Float[Tensor, " outputs"]:
        """The bias of the last convolution."""
        return self.get_parameter(f"head.{len(self.head) - 1}.bias")

    def decode(self, maps: list[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch outputs height width"]:
        """The convolutions work at the finest grid."""
        merged = sum_of(self.resize(layer(picture)) for layer, picture in zip(self.lateral, maps, strict=True))
        return self.head(merged)


class Fpn(Decoder):
    """A small feature pyramid: coarser levels are added to finer ones, and all levels are summed at the finest.

    Source: Lin et al. 2017, https://arxiv.org/abs/1612.03144; summed levels for segmentation: Kirillov et al. 2019,
    https://arxiv.org/abs/1901.02446, with one 3x3 convolution a level where they have up to three.
    """

    def __init__(self, sizes: Sequence[tuple[int, int, int]], outputs: int, width: int) -> None:
        super().__init__(sizes)
        self.order = sorted(range(len(sizes)), key=lambda number: math.prod(sizes[number][1:]))  # coarse to fine
        self.lateral = _laterals(sizes, width)
        self.smooth = nn.ModuleList(nn.Sequential(*_block(width)) for _ in sizes)
        self.head = nn.Conv2d(width, outputs, 1)

    @property
    def bias(self) -> Float[Tensor, " outputs"]:
        """The bias of the last convolution."""
        return self.get_parameter("head.bias")

    def decode(self, maps: list[Float[Tensor, "batch _ _ _"]]) -> Float[Tensor, "batch outputs height width"]:
        """From the coarsest level to the finest."""
        levels: list[Tensor] = []
        above: Tensor | None = None
        for number in self.order:
            level = self.lateral[number](maps[number])
            above = level if above is None else level + F.interpolate(above, level.shape[2:], mode="bilinear")
            levels.append(self.resize(self.smooth[number](above)))
        return self.head(sum_of(levels))


NAMES = ("linear", "conv", "fpn")


def build_decoder(name: str, sizes: Sequence[tuple[int, int, int]], outputs: int, *, width: int = 128) -> Decoder:
    """A decoder.

    Args:
        name: "linear", "conv" or "fpn".
        sizes: channels, height and width of the maps that it gets, in their order.
        outputs: numbers at each place.
        width: channels of its convolutions; "linear" has none.

    Raises:
        ValueError: the name is not known, there are no maps, or the width is below 1.
    """
    if name not in NAMES:
        raise ValueError(f"decoder must be one of {', '.join(NAMES)}, got {name!r}")
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    if name == "linear":
        return Linear(sizes, outputs)
    return Conv(sizes, outputs, width) if name == "conv" else Fpn(sizes, outputs, width)


def sum_of(pictures: Iterable[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    first, *others = pictures
    for other in others:
        first = first + other
    return first


def _laterals(sizes: Sequence[tuple[int, int, int]], width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(channels, width, 1) for channels, _, _ in sizes)


def _block(width: int) -> list[nn.Module]:
    conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
    return [conv, nn.GroupNorm(math.gcd(8, width), width), nn.ReLU(inplace=True)]
