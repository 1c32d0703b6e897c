"""Views, and their random crops of samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from modalities import CropBox, Modality
from modalities.codecs.raster import orientation_of
from modalities.common.random import generator

PROPORTIONS = 0.01  # relative tolerance of the aspect ratios of pictures that show the same


@dataclass(frozen=True)
class View:
    """A named input of a run: a modality and how it is cropped."""

    modality: Modality
    aligned: bool = True  # true: shares the sample's crop; false: draws its own
    crop: int = 0  # number of the sample's shared crop, if there are several
    repeats: bool = False  # true: repeats all draws with the crops, as a teacher with cached features needs


@dataclass(frozen=True)
class Crop:
    """How random crops are drawn in training.

    Raises:
        ValueError: an option is out of its range.
    """

    scale: tuple[float, float] = (0.6, 1.0)  # range of the crop's share of the area
    ratio: tuple[float, float] = (0.8, 1.25)  # range of the crop's width over height, relative to the view's
    flip: float = 0.5  # probability of a horizontal flip
    windows: int | None = None  # number of crops of each pair, used in turn; None: a new one every epoch
    shift: float = 0.0  # how far a crop may overhang the sample, as a share of its sides (zero-padded)

    def __post_init__(self) -> None:
        # each check also fails for NaN
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop.scale must be two shares above 0 and up to 1, low to high, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"crop.ratio must be two finite numbers above 0, low to high, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"crop.flip must be from 0 to 1, got {self.flip}")
        if not 0 <= self.shift < 1:
            raise ValueError(f"crop.shift must be from 0 to below 1, got {self.shift}")
        if self.windows is not None and self.windows < 1:
            raise ValueError(f"crop.windows must be at least 1, or None, got {self.windows}")

    def turn(self, epoch: int) -> int:
        """The first epoch with the same crops as `epoch`."""
        return epoch if self.windows is None else epoch % self.windows

    def _sides(self, area: float, shape: float) -> tuple[float, float]:
        """Height and width from two uniform numbers; the logarithm of the ratio is uniform."""
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        shape = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** shape
        return (area / shape) ** 0.5, (area * shape) ** 0.5

    def draw(self, random: torch.Generator) -> CropBox:
        """A random crop, inside the sample except for `shift`.

        As in torchvision's ``RandomResizedCrop``, area and ratio are drawn up to ten times until the crop fits. If none
        fits, the result is the largest crop of the nearest ratio, in the middle.
        """
        area, shape, top, left, flip, start = torch.rand(6, generator=random, dtype=torch.float64).tolist()
        height, width = self._sides(area, shape)
        for _ in range(TRIES - 1):
            if max(height, width) <= 1:
                break
            height, width = self._sides(*torch.rand(2, generator=random, dtype=torch.float64).tolist())
        else:
            if max(height, width) > 1:  # the largest crop of the nearest allowed ratio
                ratio = min(max(1.0, self.ratio[0]), self.ratio[1])
                height, width, top, left = min(1.0, 1 / ratio), min(1.0, ratio), 0.5, 0.5
        down, across = top, left
        top = top * (1 - height + 2 * self.shift) - self.shift
        left = left * (1 - width + 2 * self.shift) - self.shift
        return CropBox(top, left, height, width, flip < self.flip, start, down, across)


TRIES = 10  # as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Draws:
    """The random draws for a pair in an epoch."""

    crop: Crop | None
    seed: int
    epoch: int
    key: str

    def generator(self, name: str, view: View, *what: str) -> torch.Generator:
        """The generator of a view's own draws."""
        return generator(self.seed, self.turn if view.repeats else self.epoch, self.key, name, *what)

    def window(self, name: str, view: View) -> CropBox:
        """The crop of a view."""
        if self.crop is None:
            return CropBox()
        if not view.aligned:
            return self.crop.draw(self.generator(name, view, "window"))
        number = () if view.crop == 0 else (view.crop,)
        return self.crop.draw(generator(self.seed, self.turn, self.key, "window", *number))

    @property
    def turn(self) -> int:
        """The first epoch with these crops."""
        return self.crop.turn(self.epoch) if self.crop else self.epoch


@dataclass(frozen=True)
class Picture:
    """A picture's size after its EXIF orientation is applied, and that orientation."""

    width: int
    height: int
    orientation: int | None = None  # 1 to 8; None: the file has none

    @classmethod
    def of(cls, modality: Modality, signal: Tensor, payload: bytes = b"") -> "Picture | None":
        """The layout of a decoded signal; None if it is not a picture."""
        if modality.plane != "picture":
            return None
        return cls(signal.shape[-1], signal.shape[-2], orientation_of(payload) if payload else None)

    def fits(self, width: int, height: int) -> bool:
        """True if a picture of this size has the same proportions."""
        ratio = self.width * height / (self.height * width)
        return max(ratio, 1 / ratio) <= 1 + PROPORTIONS


def tell_uneven(pictures: Mapping[str, Picture]) -> str:
    """A clause about the first two pictures whose proportions differ; empty if all are equal."""
    for (name, one), (other, two) in combinations(pictures.items(), 2):
        if not one.fits(two.width, two.height):
            return (
                f"{name} of {one.width} x {one.height} pixels and {other} of {two.width} x {two.height} differ in "
                "width : height by more than 1 %, so equal positions do not show the same"
            )
    return ""


def tell_turned(pictures: Mapping[str, Picture]) -> str:
    """A sentence about the first picture that its EXIF tag rotates while another has no tag; empty if there is none.

    The sizes show a quarter turn, unless they are square. They do not show a half turn or a mirroring.
    """
    for name, one in pictures.items():
        for other, two in pictures.items():
            if (one.orientation or 1) == 1 or two.orientation is not None:
                continue
            is_quarter = (one.orientation or 1) >= 5 and not one.fits(one.height, one.width)
            if is_quarter and two.fits(one.width, one.height):
                continue
            return (
                f"the EXIF orientation {one.orientation} turns {name} to {one.width} x {one.height}, but {other} "
                f"({two.width} x {two.height}) has no tag, so equal positions may not show the same; "
                f"if {other} shows the scene as the turned {name} does, turn the pixels of {name} (mogrify "
                f"-auto-orient); if it lies as {name} is stored, remove the tag (exiftool -Orientation=)"
            )
    return ""
