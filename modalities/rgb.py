"""Colour pictures."""

import math
from dataclasses import dataclass
from typing import ClassVar

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
from modalities.codecs.colour import factors, turn_hue
from modalities.codecs.raster import decode_colour, encode_colour, resize_crop
from modalities.common.options import check_length, check_within
from modalities.synthetic.render import render_colour
from modalities.synthetic.scene import Scene


@dataclass(frozen=True)
class Rgb(Modality):
    """Colour pictures in [0, 1] from JPEG or PNG of 8 bits a channel.

    Augmentation is that of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix A) at about its half
    strength, in fixed order: brightness, contrast, saturation, hue, grey, blur.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "rgb"
    extensions: ClassVar[tuple[str, ...]] = ("jpg", "jpeg", "png")

    size: int = 64  # side of an adapted picture, pixels
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

    def __post_init__(self) -> None:
        check_within(1, math.inf, size=self.size)
        check_within(1, 100, quality=self.quality)
        check_within(0, 1, jitter=self.jitter, grey=self.grey, blur=self.blur)
        check_within(0, 1, brightness=self.brightness, contrast=self.contrast, saturation=self.saturation)
        check_within(0, math.pi, hue=self.hue)
        check_within(0.1, 20, blur_px=self.blur_px)
        if self.blur and self._blur_reach >= self.size:
            raise ValueError(f"blur_px must be at most {(self.size - 1) / 2:g} for pictures of {self.size} pixels, "
                             f"got {self.blur_px:g}")  # fmt: skip
        check_length(3, mean=self.mean, std=self.std)
        check_within(1e-6, math.inf, smallest_std=min(self.std))

    @property
    def _blur_reach(self) -> int:
        return math.ceil(2 * self.blur_px)  # pixels on either side

    @property
    def shape(self) -> tuple[int, ...]:
        """Red, green and blue of a square."""
        return (3, self.size, self.size)

    def decode(self, payload: bytes) -> Float[Tensor, "3 height width"]:
        """The picture in [0, 1], turned by its EXIF orientation; grey becomes three equal channels, alpha is dropped.

        Raises:
            DecodeError: it is not a readable JPEG or PNG, is too large, or has 16 bits a channel, as depth maps have.
        """
        return decode_colour(payload)

    def encode(self, signal: Float[Tensor, "3 height width"]) -> bytes:
        """A JPEG."""
        return encode_colour(signal, self.quality)

    def adapt(
        self, signal: Float[Tensor, "3 height width"], window: CropBox
    ) -> Float[Tensor, "3 {self.size} {self.size}"]:
        """The window's part of the picture, resized with antialiasing."""
        return resize_crop(signal, window, self.size).clamp(0, 1)

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

    def render(self, scene: Scene) -> Float[Tensor, "3 height width"]:
        """What a colour camera sees of the scene."""
        return render_colour(scene)

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
