"""Depth maps: 16-bit PNG and .npy <-> metres."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from modalities import DecodeError
from modalities.codecs.arrays import read_array
from modalities.codecs.raster import JPEG, MAX_PIXELS, NPY, PNG, describe, read_pixels, write_pixels

LARGEST = 65535  # of 16 bits
PLAUSIBLE_M = (0.005, 1000.0)  # a map whose median lies outside was stored with another scale


def decode_depth(payload: bytes, *, scale_m: float, invalid: float) -> Float[Tensor, "1 height width"]:
    """Metres, 0 where there is no reading.

    Raises:
        DecodeError: it is neither a 16-bit single-channel PNG nor a .npy of one number a pixel, is damaged, has too
            many pixels, or its median is no plausible distance under `scale_m`.
    """
    stored = _read_npy(payload) if payload.startswith(NPY) else _read_png(payload)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and every kind of NaN are no reading either
        marked = torch.from_numpy(_is_marked(stored, invalid))
        metres = torch.from_numpy(stored.astype(np.float64, copy=False)).mul_(scale_m).float()
    metres = torch.where(torch.isfinite(metres) & ~marked & (metres > 0), metres, 0.0)
    _check_plausible(metres, scale_m)
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
    stored = _read_npy(payload) if payload.startswith(NPY) else _read_png(payload)
    return stored[np.isfinite(stored) & (stored > 0) & ~_is_marked(stored, invalid)]


def _is_marked(stored: Shaped[np.ndarray, "*shape"], invalid: float) -> Bool[np.ndarray, "*shape"]:
    # 99.9 is not the number nearest to it that 32 bits can hold, so floats are compared as they are stored
    return np.equal(stored, stored.dtype.type(invalid) if stored.dtype.kind == "f" else invalid)


def _check_plausible(metres: Float[Tensor, "1 height width"], scale_m: float) -> None:
    valid = torch.from_numpy(metres.numpy()[metres.numpy() > 0])  # torch would take 24 bytes a pixel to index
    if not len(valid):
        return
    median = valid[:: 1 + len(valid) // 4096].median().item()  # a few thousand tell the order of magnitude
    low, high = PLAUSIBLE_M
    if not low <= median <= high:
        hint = "millimetres (scale_m=0.001)" if median > high else "metres (scale_m=1)"
        raise DecodeError(
            f"the median distance must be from {low} to {high:g} m, got {median:g} m with "
            f"scale_m={scale_m:g}; does the file store {hint}?"
        )


def _read_png(payload: bytes) -> Shaped[np.ndarray, "1 height width"]:
    got = describe(payload)
    if got == "PNG (16-bit grey)":
        return read_pixels(payload)[None]
    why = ": 8 bits or colours cannot hold metres, so this is a preview" if payload.startswith((PNG, JPEG)) else ""
    raise DecodeError(f"depth must be a 16-bit single-channel PNG or .npy, got {got}{why}")


def _read_npy(payload: bytes) -> Shaped[np.ndarray, "1 height width"]:
    try:
        array = read_array(payload, MAX_PIXELS)
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(f".npy array of {len(payload)} bytes is damaged or cut short: {error}") from error
    if array.ndim == 3 and array.shape[0] != 1 == array.shape[2]:  # [height, width, 1]
        array = array.transpose(2, 0, 1)
    plane = array.ndim == 2 or (array.ndim == 3 and len(array) == 1)
    if array.dtype.kind not in "iuf" or not plane or not array.size:
        raise DecodeError(
            f"depth must be an integer or float array [height, width], got {array.dtype} {list(array.shape)}"
        )
    return array.reshape(1, *array.shape[-2:])
