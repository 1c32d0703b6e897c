"""Colour: random changes of hue on batches, and CIE Lab."""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.color import lab_to_rgb, rgb_to_lab
from torch import Tensor

LAB_L, LAB_AB = slice(0, 1), slice(1, 3)  # channels: lightness in [0, 100]; green-red and blue-yellow
# luma and two chroma axes of NTSC's YIQ; the chroma rows sum to 0, so grey has no chroma
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_RGB = torch.linalg.inv(_YIQ)


def to_lab(pictures: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """CIE Lab (D65) of sRGB in [0, 1]."""
    return rgb_to_lab(pictures)


def from_lab(lab: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """The sRGB colours of CIE Lab, clipped to [0, 1]."""
    return lab_to_rgb(lab).clamp(0, 1)


def factors(draws: Float[Tensor, " batch"], strength: float) -> Float[Tensor, " batch"]:
    """Factors within `strength` of 1, from uniform numbers in [0, 1)."""
    return 1 + (2 * draws - 1) * strength


def turn_hue(
    batch: Float[Tensor, "batch 3 height width"], angles: Float[Tensor, " batch"]
) -> Float[Tensor, "batch 3 height width"]:
    """Rotates the chroma of each picture by its angle in radians, with the same luma; clipped to [0, 1].

    It multiplies each picture by a matrix in YIQ. The rotation in HSV (torchvision, kornia) takes 25 times as long on a
    CPU, and preserves the largest channel instead of the luma.
    """
    turn = F.pad(rotations(angles), (1, 0, 1, 0))
    turn[:, 0, 0] = 1
    yiq, rgb = _axes(batch.device, batch.dtype)
    matrices = rgb @ turn @ yiq
    return (matrices @ batch.flatten(2)).unflatten(2, batch.shape[2:]).clamp(0, 1)


@functools.cache
def _axes(device: torch.device, dtype: torch.dtype) -> tuple[Float[Tensor, "3 3"], Float[Tensor, "3 3"]]:
    """The matrices to YIQ and back; cached, because a copy to a GPU waits for all queued work."""
    return _YIQ.to(device, dtype), _RGB.to(device, dtype)


def rotations(angles: Float[Tensor, " batch"]) -> Float[Tensor, "batch 2 2"]:
    """Rotation matrices of the plane for angles in radians."""
    sine, cosine = torch.sin(angles), torch.cos(angles)
    return torch.stack([cosine, -sine, sine, cosine], dim=-1).unflatten(-1, (2, 2))
