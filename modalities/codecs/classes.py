"""Maps of classes: PNG of indices or of a legend's colours <-> the class of each pixel."""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from modalities import DecodeError
from modalities.codecs.raster import PNG, describe, read_pixels, write_pixels

LARGEST = 65535  # of 16 bits
UNLABELLED = -1  # class of a pixel without a label
_GREY_STEPS = {1: 1, 2: 85, 4: 17}  # what Pillow multiplies the indices of a grey PNG by, by its bits


def stored_values(count: int, ignore: int) -> list[int]:
    """The stored value of each class: ascending from 0, without `ignore`."""
    return [value for value in range(count + 1) if value != ignore][:count]


def decode_classes(payload: bytes, count: int, *, ignore: int) -> Float[Tensor, "1 height width"]:
    """The class of each pixel of a grey or palette PNG, whose numbers are read as they are; -1 for `ignore`.

    Raises:
        DecodeError: it is not such a PNG, is damaged, has too few bits for the classes, or holds another value.
    """
    _check_png(payload)
    bits, colour = payload[24], payload[25]
    if colour not in (0, 3):
        raise DecodeError(
            f"a label map must hold a class index a pixel, in a grey or palette PNG, got {describe(payload)}: if its "
            "colours are those of a legend, give them as colours, one for each class"
        )
    largest = stored_values(count, ignore)[-1]
    if largest >= 1 << max(bits, 8):
        raise DecodeError(
            f"{count} classes with ignore={ignore} are stored as values up to {largest}, which need 16 bits, got "
            f"{describe(payload)}"
        )
    stored = read_pixels(payload).astype(np.int32)
    if colour == 0:
        stored //= _GREY_STEPS.get(bits, 1)
    return _refuse_others(stored, stored - (stored > ignore), stored == ignore, count, ignore)


def decode_colours(payload: bytes, legend: Int[np.ndarray, " classes"]) -> Float[Tensor, "1 height width"]:
    """The class of each pixel of a PNG in a legend's colours; -1 for black, unless the legend has it.

    Args:
        payload: the bytes of the file.
        legend: the colour of each class as 0xRRGGBB.

    Raises:
        DecodeError: it is not a PNG of 8 bits a channel, is damaged, or has a colour that the legend lacks.
    """
    _check_png(payload)
    if payload[24] == 16:
        raise DecodeError(f"a label map in a legend's colours must have 8 bits a channel, got {describe(payload)}")
    red, green, blue = np.moveaxis(read_pixels(payload, mode="RGB").astype(np.int32), -1, 0)
    colours = red << 16 | green << 8 | blue
    order = np.argsort(legend)
    place = order[np.searchsorted(legend[order], colours).clip(max=len(legend) - 1)] if len(legend) else colours
    known = legend[place] == colours
    if (others := colours[~known & (colours != 0)]).size:
        raise DecodeError(
            f"a label map must have colours of the legend only, got #{others[0]:06x} in {others.size} of "
            f"{colours.size} pixels; black is no label"
        )
    return torch.from_numpy(np.where(known, place, UNLABELLED).astype(np.float32))[None]


def encode_classes(signal: Float[Tensor, "1 height width"], count: int, *, ignore: int) -> bytes:
    """A grey PNG of class indices, with 8 bits if all stored values fit; -1 is written as `ignore`.

    Raises:
        ValueError: a class is not a whole number from -1 to below `count`.
    """
    values = stored_values(count, ignore)
    stored = np.array([*values, ignore])[_check_classes(signal, count)]  # -1 takes the last
    return write_pixels(stored.astype(np.uint8 if max(*values, ignore) < 256 else np.uint16), "PNG")


def encode_colours(signal: Float[Tensor, "1 height width"], legend: Int[np.ndarray, " classes"]) -> bytes:
    """An RGB PNG in the legend's colours; -1 is written as black.

    Raises:
        ValueError: a class is not in the legend, or a pixel has no label and black is the colour of a class.
    """
    classes = _check_classes(signal, len(legend))
    if (classes < 0).any() and 0 in legend:
        raise ValueError("a pixel without a label cannot be stored, because black is the colour of a class")
    colours = np.array([*legend, 0])[classes]
    return write_pixels(np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.uint8), "PNG")


def _check_png(payload: bytes) -> None:
    if not payload.startswith(PNG) or len(payload) < 26:
        raise DecodeError(f"a label map must be a PNG, which loses nothing, got {describe(payload)}")


def _refuse_others(
    stored: Shaped[np.ndarray, "height width"],
    classes: Shaped[np.ndarray, "height width"],
    unlabelled: Shaped[np.ndarray, "height width"],
    count: int,
    ignore: int,
) -> Float[Tensor, "1 height width"]:
    others = stored[(classes >= count) & ~unlabelled]
    if others.size:
        values = stored_values(count, ignore)
        raise DecodeError(
            f"a label map must hold values from {values[0]} to {values[-1]}, of {count} classes, or ignore={ignore}, "
            f"got {others[0]} in {others.size} of {stored.size} pixels"
        )
    return torch.from_numpy(np.where(unlabelled, UNLABELLED, classes).astype(np.float32))[None]


def _check_classes(signal: Float[Tensor, "1 height width"], count: int) -> Int[np.ndarray, "height width"]:
    wrong = signal[(signal != signal.round()) | (signal < UNLABELLED) | (signal >= count)]
    if len(wrong):
        raise ValueError(f"a class must be a whole number from {UNLABELLED} to {count - 1}, got {wrong[0].item():g}")
    return signal[0].long().numpy()
