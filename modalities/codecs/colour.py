"""Colour pictures: JPEG and PNG <-> sRGB in [0, 1]."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from modalities import DecodeError
from modalities.codecs.raster import JPEG, PNG, describe, read_pixels, write_pixels
from modalities.synthetic.render import render_colour
from modalities.synthetic.scene import Scene


class ColourCodec:
    """How colour pictures are stored; a base of every modality that sees some part of them, before `Modality`."""

    field: ClassVar[str] = "rgb"
    extensions: ClassVar[tuple[str, ...]] = ("jpg", "jpeg", "png")

    quality: int  # of a JPEG, 1 to 100

    def decode(self, payload: bytes) -> Float[Tensor, "3 height width"]:
        """The picture in [0, 1], turned by its EXIF orientation; grey becomes three equal channels, alpha is dropped.

        Raises:
            DecodeError: it is not a readable JPEG or PNG, is too large, or has 16 bits a channel, as depth maps have.
        """
        if not payload.startswith((PNG, JPEG)):
            raise DecodeError(f"a colour picture must be a JPEG or PNG, got {describe(payload)}")
        if payload.startswith(PNG) and payload[24:25] == b"\x10":  # Pillow would cut it to 8 bits in silence
            raise DecodeError(
                f"a colour picture must have 8 bits a channel, got {describe(payload)}: "
                f"if it is a depth map, store it as the member 'depth'; if not, convert it to 8 bits"
            )
        return torch.from_numpy(read_pixels(payload, mode="RGB")).permute(2, 0, 1).contiguous().float().div_(255)

    def encode(self, signal: Float[Tensor, "3 height width"]) -> bytes:
        """A JPEG; as usual, colour is stored at half the resolution of lightness (4:2:0)."""
        pixels = (signal.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
        return write_pixels(pixels.numpy(), "JPEG", quality=self.quality, subsampling="4:2:0")

    def render(self, scene: Scene) -> Float[Tensor, "3 height width"]:
        """The scene as a colour camera sees it."""
        return render_colour(scene)
