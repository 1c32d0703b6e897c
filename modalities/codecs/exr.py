"""OpenEXR files of one number a pixel, as renderers write depth; needs the package OpenEXR."""

import struct
import tempfile

import numpy as np
from jaxtyping import Shaped

from modalities import DecodeError
from modalities.common.options import Limit

EXR = b"v/1\x01"
_DEEP, _SEVERAL = 0x800, 0x1000  # bits of the version: several samples a pixel, several parts (OpenEXR File Layout)


def read_exr(payload: bytes, what: str, limit: Limit) -> Shaped[np.ndarray, "height width"]:
    """The numbers of an EXR file: halves, floats or whole numbers of its only channel, besides an alpha channel.

    Of several channels, Z is read, or R where R, G and B are equal.

    Args:
        payload: the bytes of the file.
        what: the kind of map in messages: "depth".
        limit: of pixels.

    Raises:
        DecodeError: the package is missing, or the file is damaged, has no such channel, several parts or deep pixels,
            or claims more pixels than allowed.
    """
    try:
        height, width = _read_size(payload)
    except (struct.error, ValueError) as error:
        raise DecodeError(f"EXR of {len(payload)} bytes is damaged or cut short: its header has no end") from error
    limit.check(height * width, f"EXR of {width} x {height}")
    if payload[5] & (_DEEP | _SEVERAL) >> 8:
        raise DecodeError(f"{what} in an EXR must be its only part, with one sample a pixel; save it apart")
    try:
        import OpenEXR
    except ImportError as error:
        raise DecodeError(
            f"{what} in an EXR needs the package OpenEXR: pip install 'crossmodal-transfer[exr]'"
        ) from error
    try:
        with tempfile.NamedTemporaryFile(suffix=".exr") as file:  # streams are read by new versions only
            file.write(payload)
            file.flush()
            with OpenEXR.File(file.name, separate_channels=True) as opened:
                channels = {name: np.array(channel.pixels) for name, channel in opened.channels().items()}
    except Exception as error:  # of any kind, by the kind of damage
        raise DecodeError(f"EXR of {len(payload)} bytes is damaged or cut short: {error}") from error
    numbers = _choose(channels, what)
    if numbers.shape != (height, width):
        raise DecodeError(f"{what} in an EXR must have a number at each of {width} x {height} pixels, got "
                          f"{list(numbers.shape)}")  # fmt: skip
    return numbers


def _choose(channels: dict[str, np.ndarray], what: str) -> np.ndarray:
    visible = {name: pixels for name, pixels in channels.items() if name != "A"}
    if len(visible) == 1:
        return next(iter(visible.values()))
    if "Z" in visible:
        return visible["Z"]
    if visible.keys() == {"R", "G", "B"} and all(np.array_equal(visible["R"], visible[name], equal_nan=True)
                                                 for name in "GB"):  # fmt: skip
        return visible["R"]
    raise DecodeError(
        f"{what} in an EXR must be its only channel, the channel Z, or R = G = B, got {', '.join(channels) or 'none'}"
    )


def _read_size(payload: bytes) -> tuple[int, int]:
    """Height and width of the data window, from the header.

    Raises:
        ValueError: there is none, or the header is cut short; or `struct.error`.
    """
    place = 8
    while payload[place : place + 1] not in (b"\0", b""):
        end = payload.index(b"\0", place)  # of the attribute's name, then of its type
        start = payload.index(b"\0", end + 1) + 1
        (size,) = struct.unpack_from("<i", payload, start)
        if payload[place:end] == b"dataWindow":
            left, top, right, bottom = struct.unpack_from("<4i", payload, start + 4)
            if right < left or bottom < top:
                break
            return bottom - top + 1, right - left + 1
        if size < 0:
            break
        place = start + 4 + size
    raise ValueError("no data window")
