"""The colour of pictures, without their lightness."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from modalities import CropBox, Modality
from modalities.codecs.colour import ColourCodec
from modalities.common.colour import LAB_AB, factors, from_lab, rotations, to_lab
from modalities.common.options import check_within
from modalities.common.picture import PictureView

SHOWN_L = 60.0  # lightness at which most chroma can be shown on a screen


@dataclass(frozen=True)
class Chrominance(ColourCodec, PictureView, Modality):
    """The chroma a, b of CIE Lab, about -100 to 100 and 0 for grey, of the pictures that `rgb` stores.

    A signal is the colour picture; `adapt` resizes it and then takes a and b. The other half of `luminance` (see
    there). JPEG usually stores colour at half the resolution of lightness (4:2:0): a view of more than half the stored
    height and width shows no more.

    Raises:
        ValueError: an option is out of its range.
    """

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    quality: int = 95  # of a JPEG when it is written, 1 to 100
    saturation: float = 0.4  # greatest change of the distance from grey, as a fraction
    hue: float = 0.2  # greatest turn of the plane of a and b, radians
    std: float = 20.0  # divided by, units of a and b: about their spread in photographs; the mean is grey, 0

    def __post_init__(self) -> None:
        self.check_view()
        check_within(1, 100, quality=self.quality)
        check_within(0, 1, saturation=self.saturation)
        check_within(0, math.pi, hue=self.hue)
        check_within(1e-6, math.inf, std=self.std)

    @property
    def shape(self) -> tuple[int, ...]:
        """The a and b, height and width."""
        return (2, *self.sides)

    def adapt(
        self, signal: Float[Tensor, "3 height width"], window: CropBox
    ) -> Float[Tensor, "2 {self.sides[0]} {self.sides[1]}"]:
        """The a and b of the window's part of the picture, resized with antialiasing."""
        return to_lab(self.resize_crop(signal, window).clamp(0, 1))[LAB_AB]

    def draw(self, generator: torch.Generator) -> Float[Tensor, "2"]:
        """Two uniform numbers: saturation and hue."""
        return torch.rand(2, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch 2 height width"], draws: Float[Tensor, "batch 2"]
    ) -> Float[Tensor, "batch 2 height width"]:
        """The batch in stronger, weaker and shifted colours; grey stays grey."""
        turns = rotations((2 * draws[:, 1] - 1) * self.hue) * factors(draws[:, 0], self.saturation)[:, None, None]
        return (turns @ batch.flatten(2)).unflatten(2, batch.shape[2:])

    def normalise(self, batch: Float[Tensor, "batch 2 height width"]) -> Float[Tensor, "batch 2 height width"]:
        """The a and b over `std`."""
        return batch / self.std

    def picture(self, adapted: Float[Tensor, "2 height width"]) -> Float[Tensor, "3 height width"]:
        """The colours at one lightness."""
        return from_lab(torch.cat([torch.full_like(adapted[:1], SHOWN_L), adapted]))
