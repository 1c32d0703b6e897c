"""Noise and holes in maps of one number a pixel, from a few uniform numbers for each map."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from modalities.common.picture import spans
from modalities.common.random import uniform_bits


def addressed_noise(
    draws: Float[Tensor, "batch 2"], height: int, width: int
) -> Float[Tensor, "batch 1 {height} {width}"]:
    """Noise of variance 1 that a pixel's position and its sample's draws decide, equal on every device.

    The sum of four uniform numbers (Irwin-Hall): near normal, never beyond 3.5, and without a logarithm or a cosine,
    whose last bits differ between devices and positions in memory.
    """
    first, second = (draws * 2**24).long().unbind(1)  # torch.rand gives multiples of 2**-24
    pixels = torch.arange(height * width, device=draws.device).view(height, width)
    bits = uniform_bits(0, first[:, None, None, None], second[:, None, None, None], pixels)
    fields = 0x1FFF << 26 | 0x1FFF  # two of the four numbers of 13 bits
    sums = (bits & fields).add_((bits >> 13).bitwise_and_(fields))
    total = (sums & 0x3FFF).add_(sums.bitwise_right_shift_(26))
    return total.float().sub_(2 * 0x1FFF).mul_(math.sqrt(3) / 0x2000)


def rectangles(
    draws: Float[Tensor, "batch numbers"], count: int, side: float, sides: tuple[int, int]
) -> Bool[Tensor, "batch 1 {sides[0]} {sides[1]}"]:
    """A mask of `count` rectangles for each map, which may overlap.

    Args:
        draws: four uniform numbers for each rectangle.
        count: number of rectangles.
        side: greatest side of a rectangle, as a fraction of the map's.
        sides: height and width of the maps in pixels.
    """
    top, left, tall, wide = draws.unflatten(1, (count, 4)).unbind(-1)
    rows = spans(top, tall * side, sides[0])
    columns = spans(left, wide * side, sides[1])
    return (rows[..., None] & columns[..., None, :]).any(1, keepdim=True)
