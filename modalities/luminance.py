"""The lightness of colour pictures."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from kornia.enhance import adjust_brightness_accumulative
from torch import Tensor

from modalities import CropBox, Modality
from modalities.codecs.colour import ColourCodec
from modalities.common.colour import LAB_L, factors, to_lab
from modalities.common.options import check_within
from modalities.common.picture import PictureView


@dataclass(frozen=True)
class Luminance(ColourCodec, PictureView, Modality):
    """The lightness L of CIE Lab, in [0, 100], of the pictures that `rgb` stores.

    A signal is the colour picture; `adapt` resizes it and then takes L. With `chrominance` it splits one picture into
    two modalities (Tian et al. 2020, Contrastive Multiview Coding, https://arxiv.org/abs/1906.05849). JPEG usually
    stores colour at half the resolution of lightness (4:2:0), so L alone is as sharp as the file.

    Raises:
        ValueError: an option is out of its range.
    """

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    quality: int = 95  # of a JPEG when it is written, 1 to 100
    brightness: float = 0.3  # greatest change, as a fraction
    contrast: float = 0.3  # greatest change, as a fraction
    mean: float = 50.0  # subtracted, units of L: the middle grey
    std: float = 25.0  # divided by, units of L: about its spread in photographs

    def __post_init__(self) -> None:
        self.check_view()
        check_within(1, 100, quality=self.quality)
        check_within(0, 1, brightness=self.brightness, contrast=self.contrast)
        check_within(1e-6, math.inf, std=self.std)

    @property
    def shape(self) -> tuple[int, ...]:
        """L, height and width."""
        return (1, *self.sides)

    def adapt(
        self, signal: Float[Tensor, "3 height width"], window: CropBox
    ) -> Float[Tensor, "1 {self.sides[0]} {self.sides[1]}"]:
        """L of the window's part of the picture, resized with antialiasing."""
        return to_lab(self.resize_crop(signal, window).clamp(0, 1))[LAB_L]

    def draw(self, generator: torch.Generator) -> Float[Tensor, "2"]:
        """Two uniform numbers: brightness and contrast."""
        return torch.rand(2, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch 1 height width"], draws: Float[Tensor, "batch 2"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The batch under other lights; stays in [0, 100]."""
        brightened = adjust_brightness_accumulative(batch / 100, factors(draws[:, 0], self.brightness))
        # kornia 0.8, the last for Python 3.10, takes one mean for the whole batch where there is one channel
        middle = brightened.mean(dim=(1, 2, 3), keepdim=True)
        contrast = factors(draws[:, 1], self.contrast)[:, None, None, None]
        return 100 * (middle + contrast * (brightened - middle)).clamp(0, 1)

    def normalise(self, batch: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """L less `mean`, over `std`."""
        return (batch - self.mean) / self.std

    def picture(self, adapted: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """L as grey."""
        return (adapted / 100).clamp(0, 1).expand(3, -1, -1)
