"""What the modalities with pixels share: pictures from and to bytes, looks, masks and colour maps."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from modalities._base import DecodeError, Window

PNG, NPY, JPEG = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"\xff\xd8\xff"
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"  # markers; within a scan no two bytes read like them
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGB and alpha"}


def describe(payload: bytes) -> str:
    """What bytes claim to be by their first few, for messages: "PNG (16-bit grey)"."""
    if payload.startswith(PNG) and len(payload) > 25:
        return f"PNG ({payload[24]}-bit {_PNG_COLOURS.get(payload[25], 'unknown')})"
    if payload.startswith(JPEG):
        return "JPEG"
    if payload.startswith(NPY):
        return ".npy array"
    return f"{len(payload)} bytes that begin with {payload[:8]!r}"


def read_pixels(payload: bytes, *, mode: str | None = None) -> np.ndarray:
    """The numbers of a PNG or JPEG, [height, width] or with channels last; they lie as stored (EXIF is not obeyed).

    By Pillow: torchvision's codecs are twice as fast, but deprecated since 0.29 in favour of torchcodec, and 0.29.1
    crashes on damaged PNGs.

    Args:
        payload: of the file.
        mode: Pillow's name of what to convert to, "RGB"; None leaves the numbers as they are.

    Raises:
        DecodeError: the picture is damaged or cut short.
    """
    try:
        # Pillow fills with grey what a small JPEG lacks; padding, or what a telephone appends, may follow the end
        if payload.startswith(JPEG) and payload.rfind(_JPEG_END) < payload.rfind(_JPEG_SCAN):
            raise EOFError("no end-of-image marker after the last scan")
        if payload.startswith(PNG):
            Image.open(io.BytesIO(payload), formats=("PNG",)).verify()  # checksums and end, which reading lets pass
        with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as image:
            return np.array(image if mode is None else image.convert(mode))
    except Exception as error:  # Pillow lets out whatever damage leads to, AssertionError and struct.error included
        raise DecodeError(f"{describe(payload)} of {len(payload)} bytes is damaged or cut short: {error}") from error


def write_pixels(pixels: np.ndarray, kind: str, **options: int | str) -> bytes:
    """A file of Pillow's `kind`, "PNG" or "JPEG"; uint16 makes a 16-bit PNG."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()


def decode_colour(payload: bytes) -> Float[Tensor, "3 height width"]:
    """A colour picture in [0, 1]; grey ones get three equal channels, alpha is dropped.

    Raises:
        DecodeError: it is not a readable JPEG or PNG, or has 16 bits a channel, as depth maps have.
    """
    if not payload.startswith((PNG, JPEG)):
        raise DecodeError(f"a colour picture must be a JPEG or PNG, got {describe(payload)}")
    if payload.startswith(PNG) and payload[24:25] == b"\x10":  # Pillow would cut it to 8 bits in silence
        raise DecodeError(
            f"a colour picture must have 8 bits a channel, got {describe(payload)}: "
            f"if it is a depth map, store it as the member 'depth'; if not, convert it to 8 bits"
        )
    return torch.from_numpy(read_pixels(payload, mode="RGB")).permute(2, 0, 1).contiguous().float() / 255


def encode_colour(signal: Float[Tensor, "3 height width"], quality: int) -> bytes:
    """A JPEG; as usual, colour is stored at half the resolution of lightness (4:2:0)."""
    pixels = (signal.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    return write_pixels(pixels.numpy(), "JPEG", quality=quality, subsampling="4:2:0")


def look(
    signal: Float[Tensor, "channels height width"], window: Window, size: int, *, nearest: bool = False
) -> Float[Tensor, "channels {size} {size}"]:
    """The part of a picture that `window` shows, resized to a square; bilinear with antialiasing unless `nearest`.

    What the window shows from outside the picture is 0.
    """
    height, width = signal.shape[-2:]
    top, bottom = _interval(window.top, window.height, height)
    left, right = _interval(window.left, window.width, width)
    above, before = max(-top, 0), max(-left, 0)
    if above or before or bottom > height or right > width:
        signal = F.pad(signal, (before, max(right - width, 0), above, max(bottom - height, 0)))
    part = signal[None, :, top + above : bottom + above, left + before : right + before]
    if nearest:
        part = F.interpolate(part, (size, size), mode="nearest-exact")
    else:
        part = F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return part[0].flip(-1) if window.flip else part[0]


def _interval(start: float, extent: float, pixels: int) -> tuple[int, int]:
    """The nearest whole pixels, at least one; all inside where the interval is."""
    last = round((start + extent) * pixels)
    first = min(round(start * pixels), max(last, pixels) - 1)
    return first, max(last, first + 1)


def spans(
    places: Float[Tensor, "*shape"], extents: Float[Tensor, "*shape"], length: int
) -> Bool[Tensor, "*shape {length}"]:
    """Marks one stretch in each row of `length`.

    Args:
        places: where it lies in the slack, 0 at the beginning, 1 at the end.
        extents: its fraction of the length.
        length: of a row.
    """
    positions = torch.arange(length, device=places.device)
    width = (extents * length).round()
    first = (places * (length - width)).round()
    return (positions >= first[..., None]) & (positions < (first + width)[..., None])


def colour_map(values: Float[Tensor, "height width"], name: str) -> Float[Tensor, "3 height width"]:
    """Numbers in [0, 1] in the colours of matplotlib's map `name`."""
    from matplotlib import colormaps  # a third of a second that no worker should wait for

    colours = colormaps[name](values.cpu().numpy())[..., :3]
    return torch.from_numpy(colours).permute(2, 0, 1).float()
