"""Depth maps: 16-bit PNG and other maps of numbers <-> metres."""

import math

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from modalities import DecodeError
from modalities.codecs.raster import write_pixels
from modalities.codecs.readings import is_marked, read_numbers

LARGEST = 65535  # of 16 bits
PREVIEW = "8 bits or colours cannot hold metres, so this is a preview"
PLAUSIBLE_M = (0.005, 1000.0)  # a map whose median lies outside was stored with another scale


def decode_depth(payload: bytes, *, scale_m: float, invalid: float) -> Float[Tensor, "1 height width"]:
    """Metres, 0 where there is no reading.

    Raises:
        DecodeError: see `read_numbers`; or its median is no plausible distance under `scale_m`.
    """
    stored = read_numbers(payload, what="depth", preview=PREVIEW)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and every kind of NaN are no reading either
        marked = torch.from_numpy(is_marked(stored, invalid))
        metres = torch.from_numpy(stored.astype(np.float64, copy=False)).mul_(scale_m).float()
    metres = torch.where(torch.isfinite(metres) & ~marked & (metres > 0), metres, 0.0)
    if doubt := doubt_metres(metres):
        low = metres[metres > 0].median() < PLAUSIBLE_M[0]
        hint = "metres (scale_m=1)" if low else "millimetres (scale_m=0.001)"
        raise DecodeError(f"{doubt} with scale_m={scale_m:g}; does the file store {hint}?")
    return metres


def encode_depth(signal: Float[Tensor, "1 height width"], *, scale_m: float, invalid: float) -> bytes:
    """A 16-bit PNG in steps of `scale_m`; "no reading" is written as 0.

    Raises:
        ValueError: a distance does not fit 16 bits, or would read as "no reading".
    """
    value = (signal.double() / scale_m).round()
    lost = (signal != 0) & (~(value > 0) | value.isinf() | (value == invalid))  # NaN is not above 0 either
    if lost.any():
        raise ValueError(
            f"a distance must be finite, stored above 0 and not as invalid={invalid:g}, "
            f"got {signal[lost][0].item():g} m with scale_m={scale_m:g}; use a smaller scale_m "
            f"or another invalid, and 0 for no reading"
        )
    if value.max() > LARGEST:
        largest_m = signal.max().item()
        raise ValueError(
            f"distances must fit {LARGEST} steps of scale_m={scale_m:g}, got {largest_m:g} m; "
            f"scale_m={10 ** math.ceil(math.log10(largest_m / LARGEST)):g} would fit"
        )
    return write_pixels(value[0].numpy().astype(np.uint16), "PNG")


def stored_readings(payload: bytes, invalid: float) -> Shaped[np.ndarray, " readings"]:
    """The numbers of a file as they are stored, whatever their unit, less those that mean "no reading".

    Raises:
        DecodeError: see `decode_depth`.
    """
    return readings_of(read_numbers(payload, what="depth", preview=PREVIEW), invalid)


def readings_of(stored: Shaped[np.ndarray, "*shape"], invalid: float) -> Shaped[np.ndarray, " readings"]:
    """The stored numbers of a depth map less those that mean "no reading"."""
    return stored[np.isfinite(stored) & (stored > 0) & ~is_marked(stored, invalid)]


def doubt_metres(metres: Float[Tensor, "1 height width"]) -> str:
    """Why these can hardly be metres; empty if they can."""
    valid = torch.from_numpy(metres.numpy()[metres.numpy() > 0])  # torch would take 24 bytes a pixel to index
    median = (
        valid[:: 1 + len(valid) // 4096].median().item() if len(valid) else None
    )  # some tell the order of magnitude
    low, high = PLAUSIBLE_M
    if median is None or low <= median <= high:
        return ""
    return f"the median distance must be from {low} to {high:g} m, got {median:g} m"
