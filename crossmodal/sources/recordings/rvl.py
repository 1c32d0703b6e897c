"""RVL, a lossless code of depth maps (Wilson 2017, "Fast Lossless Depth Image Compression").

Runs alternate: how many zeros follow, how many readings follow, and each reading's difference from the one before it.
Numbers are written in groups of 3 bits, low bits first, each in a nibble whose top bit says that another follows;
differences carry their sign in the lowest bit. Eight nibbles make a word of 32 bits, the first in its top bits.
"""

import numpy as np
from jaxtyping import Int64, UInt16

from crossmodal.sources import SourceError

_MOST_NIBBLES = 10  # of a number; 30 bits are more than any picture has pixels


def decode_rvl(data: bytes, pixels: int) -> UInt16[np.ndarray, " pixels"]:
    """The readings of a picture, 0 where there is none.

    Raises:
        SourceError: the data is shorter than the picture, or no RVL.
    """
    numbers = _read_numbers(data)
    depth = np.zeros(pixels, np.uint16)
    readings = np.zeros(pixels, bool)
    differences = []
    at = place = 0
    while place < pixels:
        if at + 2 > len(numbers):
            raise SourceError(f"its RVL is cut short at pixel {place} of {pixels}")
        zeros, count = int(numbers[at]), int(numbers[at + 1])
        at, place = at + 2, place + zeros
        if place + count > pixels or at + count > len(numbers) or not zeros + count:
            raise SourceError(f"its RVL is damaged at pixel {min(place, pixels)} of {pixels}")
        readings[place : place + count] = True
        differences.append(numbers[at : at + count])
        at, place = at + count, place + count
    signed = np.concatenate(differences) if differences else np.zeros(0, np.int64)
    depth[readings] = np.cumsum((signed >> 1) ^ -(signed & 1)).astype(np.uint16)
    return depth


def _read_numbers(data: bytes) -> Int64[np.ndarray, " numbers"]:
    """All numbers of the code, and some zeros where the last word is not full."""
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
    nibbles = ((words[:, None] >> np.arange(28, -4, -4, dtype=np.uint32)) & 15).ravel().astype(np.int64)
    ends = np.flatnonzero(nibbles < 8) + 1
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    if (ends - starts).max() > _MOST_NIBBLES:
        raise SourceError("its RVL is damaged: a number has more bits than a picture has pixels")
    places = np.arange(ends[-1]) - np.repeat(starts, ends - starts)
    return np.add.reduceat((nibbles[: ends[-1]] & 7) << (3 * places), starts)
