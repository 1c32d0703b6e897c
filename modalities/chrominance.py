"""The colour of pictures, without their lightness."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from modalities import CropBox, Modality
from modalities.codecs.colour import LAB_AB, factors, from_lab, rotations, to_lab
from modalities.codecs.raster import decode_colour, encode_colour, resize_crop
from modalities.common.options import check_within
from modalities.synthetic.render import render_colour
from modalities.synthetic.scene import Scene

SHOWN_L = 60.0  # lightness at which most chroma can be shown on a screen


@dataclass(frozen=True)
class Chrominance(Modality):
    """The chroma a, b of CIE Lab, about -100 to 100 and 0 for grey, of the pictures that `rgb` stores.

    A signal is the colour picture; `adapt` resizes it and then takes a and b. The other half of `luminance` (see
    there). JPEG usually stores colour at half the resolution of lightness (4:2:0): a `size` above half the stored
    side shows no more.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "rgb"
    extensions: ClassVar[tuple[str, ...]] = ("jpg", "jpeg", "png")

    size: int = 64  # side of an adapted picture, pixels
    quality: int = 95  # of a JPEG when it is written, 1 to 100
    saturation: float = 0.4  # greatest change of the distance from grey, as a fraction
    hue: float = 0.2  # greatest turn of the plane of a and b, radians
    std: float = 20.0  # divided by, units of a and b: about their spread in photographs; the mean is grey, 0

    def __post_init__(self) -> None:
        check_within(1, math.inf, size=self.size)
        check_within(1, 100, quality=self.quality)
        check_within(0, 1, saturation=self.saturation)
        check_within(0, math.pi, hue=self.hue)
        check_within(1e-6, math.inf, std=self.std)

    @property
    def shape(self) -> tuple[int, ...]:
        """The a and b of a square."""
        return (2, self.size, self.size)

    def decode(self, payload: bytes) -> Float[Tensor, "3 height width"]:
        """The colour picture in [0, 1].

        Raises:
            DecodeError: it is not a readable JPEG or PNG, is too large, or has 16 bits a channel, as depth maps have.
        """
        return decode_colour(payload)

    def encode(self, signal: Float[Tensor, "3 height width"]) -> bytes:
        """The colour picture as a JPEG."""
        return encode_colour(signal, self.quality)

    def adapt(
        self, signal: Float[Tensor, "3 height width"], window: CropBox
    ) -> Float[Tensor, "2 {self.size} {self.size}"]:
        """The a and b of the window's part of the picture, resized with antialiasing."""
        return to_lab(resize_crop(signal, window, self.size).clamp(0, 1))[LAB_AB]

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

    def render(self, scene: Scene) -> Float[Tensor, "3 height width"]:
        """What a colour camera sees of the scene."""
        return render_colour(scene)
