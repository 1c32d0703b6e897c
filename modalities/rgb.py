"""Colour pictures."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import gaussian_blur2d
from torch import Tensor

from modalities import CropBox, Modality
from modalities.codecs.colour import ColourCodec
from modalities.common.colour import factors, turn_hue
from modalities.common.options import check_length, check_within
from modalities.common.picture import PictureView


@dataclass(frozen=True)
class Rgb(ColourCodec, PictureView, Modality):
    """Colour pictures in [0, 1] from JPEG or PNG of 8 bits a channel.

    Augmentation is that of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix A) at about its half
    strength, in fixed order: brightness, contrast, saturation, hue, grey, blur.

    Raises:
        ValueError: an option is out of its range.
    """

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    quality: int = 95  # of a JPEG when it is written, 1 to 100
    jitter: float = 0.8  # chance that brightness, contrast, saturation and hue change
    brightness: float = 0.4  # greatest change, as a fraction
    contrast: float = 0.4  # greatest change, as a fraction
    saturation: float = 0.4  # greatest change, as a fraction
    hue: float = 0.6  # greatest turn, radians (torchvision's hue=0.1 is 0.63)
    grey: float = 0.2  # chance that all colour goes
    blur: float = 0.0  # chance of a blur
    blur_px: float = 1.5  # greatest standard deviation of a blur, pixels of the adapted picture
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # subtracted, of red, green, blue (ImageNet's)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)  # divided by, of red, green, blue (ImageNet's)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # how a crop is resized; always with antialiasing
    # 8: a resized picture is rounded to 8 bits a channel, as torchvision rounds; a quarter of the bytes to the device
    bits: Literal[8] | None = None

    added: ClassVar[tuple[str, ...]] = ("interpolation", "bits")

    def __post_init__(self) -> None:
        self.check_view()
        check_within(1, 100, quality=self.quality)
        check_within(0, 1, jitter=self.jitter, grey=self.grey, blur=self.blur)
        check_within(0, 1, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        check_within(0, math.pi, hue=self.hue)
        check_within(0.1, 20, blur_px=self.blur_px)
        side = min(self.sides)
        if self.blur and self._blur_reach >= side:
            raise ValueError(
                f"blur_px must be at most {(side - 1) / 2:g} for pictures of {side} pixels, got {self.blur_px:g}"
            )
        check_length(3, mean=self.mean, std=self.std)
        check_within(1e-6, math.inf, smallest_std=min(self.std))

    @property
    def _blur_reach(self) -> int:
        return math.ceil(2 * self.blur_px)  # pixels on either side

    @property
    def shape(self) -> tuple[int, ...]:
        """Red, green and blue, height and width."""
        return (3, *self.sides)

    def adapt(
        self, signal: Float[Tensor, "3 height width"], window: CropBox
    ) -> Float[Tensor, "3 {self.sides[0]} {self.sides[1]}"]:
        """The window's part of the picture, resized with antialiasing."""
        resized = self.resize_crop(signal, window, mode=self.interpolation).clamp(0, 1)
        return resized if self.bits is None else resized.mul(255).round().div(255)

    def draw(self, generator: torch.Generator) -> Float[Tensor, "8"]:
        """Eight uniform numbers: the chance and the four strengths of the jitter, grey, blur, its width."""
        return torch.rand(8, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch 3 height width"], draws: Float[Tensor, "batch 8"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """The batch under other lights and through other lenses; stays in [0, 1]."""
        chance, brightness, contrast, saturation, hue, grey, blur, width = draws.unbind(1)
        if self.jitter:
            jittered = self._jitter(batch, brightness, contrast, saturation, hue)
            batch = torch.where(_rows(chance < self.jitter), jittered, batch)
        if self.grey:
            batch = adjust_saturation_with_gray_subtraction(batch, (grey >= self.grey).to(batch))
        if self.blur == 0:
            return batch
        sigma = (0.1 + (self.blur_px - 0.1) * width)[:, None].expand(-1, 2)
        side = 2 * self._blur_reach + 1
        return torch.where(_rows(blur < self.blur), gaussian_blur2d(batch, (side, side), sigma), batch)

    def normalise(self, batch: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Every channel less `mean`, over `std`."""
        return (batch - _channels(self.mean, batch)) / _channels(self.std, batch)

    def picture(self, adapted: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        """Itself."""
        return adapted.clamp(0, 1)

    def _jitter(self, batch: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
        batch = adjust_brightness_accumulative(batch, factors(brightness, self.brightness))
        batch = adjust_contrast_with_mean_subtraction(batch, factors(contrast, self.contrast))
        batch = adjust_saturation_with_gray_subtraction(batch, factors(saturation, self.saturation))
        return turn_hue(batch, (2 * hue - 1) * self.hue)


def _channels(values: tuple[float, ...], batch: Tensor) -> Tensor:
    # written where the batch is: `new_tensor` copies from the host, and a GPU waits for all queued work first
    return torch.stack([batch.new_full((1, 1), value) for value in values])


def _rows(chosen: Tensor) -> Tensor:
    return chosen[:, None, None, None]
