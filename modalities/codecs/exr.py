"""OpenEXR files of one number a pixel, as renderers write depth; needs the package OpenEXR."""

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
        DecodeError: the package is missing, or the file has no such channel, several parts or deep pixels, or claims
            more pixels than allowed.
        Exception: of any kind, if the file is damaged.
    """
    if int.from_bytes(payload[4:8], "little") & (_DEEP | _SEVERAL):
        raise DecodeError(f"{what} in an EXR must be its only part, with one sample a pixel; save it apart")
    try:
        import OpenEXR
    except ImportError as error:
        raise DecodeError(
            f"{what} in an EXR needs the package OpenEXR: pip install 'crossmodal-transfer[exr]'"
        ) from error
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:  # streams are read by new versions only
        file.write(payload)
        file.flush()
        first, last = OpenEXR.File(file.name, header_only=True).header()["dataWindow"]
        width, height = (int(end) - int(start) + 1 for start, end in zip(first, last, strict=True))
        limit.check(height * width, f"EXR of {width} x {height}")
        with OpenEXR.File(file.name, separate_channels=True) as opened:
            channels = {name: np.array(channel.pixels) for name, channel in opened.channels().items() if name != "A"}
    numbers = next(iter(channels.values())) if len(channels) == 1 else channels.get("Z")
    if numbers is None and channels.keys() == {"R", "G", "B"}:
        red, *others = (channels[name] for name in "RGB")
        numbers = red if all(np.array_equal(red, other, equal_nan=True) for other in others) else None
    if numbers is None or numbers.shape != (height, width):
        raise DecodeError(
            f"{what} in an EXR must be its only channel, the channel Z, or R = G = B, with a number at each of {width} "
            f"x {height} pixels, got {', '.join(channels) or 'no channel'}"
        )
    return numbers
