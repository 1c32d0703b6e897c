"""Pictures in messages of ROS and Foxglove, as the content of a `Frame`.

Encodings are those of sensor_msgs/image_encodings.h (https://github.com/ros2/common_interfaces), of the image
transports compressed and compressedDepth (https://github.com/ros-perception/image_transport_plugins), and of
foxglove.RawImage and foxglove.CompressedImage (https://docs.foxglove.dev/docs/sdk/schemas). ROS states the unit of
depth in REP 118: 16UC1 in millimetres, 32FC1 in metres.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16
from PIL import Image

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.rvl import decode_rvl
from crossmodal.sources.recordings.stream import Kind, Stream
from modalities import DecodeError
from modalities.codecs.raster import JPEG, MAX_PIXELS, PNG, describe, read_pixels

# encoding -> stored channels, and the places of red, green and blue among them
_COLOUR = {
    "rgb8": (3, (0, 1, 2)),
    "bgr8": (3, (2, 1, 0)),
    "8UC3": (3, (2, 1, 0)),
    "rgba8": (4, (0, 1, 2)),
    "bgra8": (4, (2, 1, 0)),
    "8UC4": (4, (2, 1, 0)),
}
_NUMBERS = {"mono8": "u1", "8UC1": "u1", "mono16": "u2", "16UC1": "u2", "32FC1": "f4"}
_YUV = {"yuv422": (1, 0, 2), "uyvy": (1, 0, 2), "yuv422_yuy2": (0, 1, 3), "yuyv": (0, 1, 3)}  # places of Y, U and V
_BAYER = {f"bayer_{pattern}{bits}": (pattern, bits) for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
_STATED: dict[str, tuple[Mapping[str, object], str]] = {
    "16UC1": ({"scale_m": 0.001}, "ROS REP 118: 16UC1 is in millimetres"),
    "32FC1": ({"scale_m": 1.0}, "ROS REP 118: 32FC1 is in metres"),
}
_HEADER = struct.Struct("<iff")  # of compressedDepth: method, and the two parameters of inverse depth
_RVL_SIZE = struct.Struct("<II")  # width and height, behind that header
_YUV_TO_RGB = np.array(  # ITU-R BT.601, limited range
    [[1.164384, 1.164384, 1.164384], [0.0, -0.391762, 2.017232], [1.596027, -0.812968, 0.0]], np.float32
)


@dataclass(frozen=True)
class Raw:
    """A picture as numbers, row by row."""

    encoding: str
    height: int  # pixels
    width: int  # pixels
    step: int  # bytes from one row to the next; 0: rows are not padded
    big_endian: bool
    data: bytes | UInt8[np.ndarray, " bytes"]


@dataclass(frozen=True)
class Compressed:
    """A picture as a file, or behind the header of compressedDepth."""

    format: str  # "jpeg", "png", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png"
    data: bytes


def describe_picture(picture: Raw | Compressed, topic: str) -> Stream:
    """A topic's pictures: their kind, size and unit; an encoding that cannot be read is of kind "other"."""
    if isinstance(picture, Raw):
        encoding = pixels = picture.encoding
        kind, height, width = _kind(pixels, topic), picture.height, picture.width
    else:
        encoding, pixels = picture.format, _pixels_of(picture.format)
        if _is_rvl(encoding):
            kind, (height, width) = _kind(pixels, topic), _rvl_size(picture.data)
        else:
            kind, height, width = _look(_split(picture.data)[1], topic)
            stated_kind = _kind(pixels, topic)
            kind = stated_kind if stated_kind in ("depth", "thermal") else kind
    stated, source = _STATED.get(pixels, ({}, ""))
    return Stream(topic, kind, encoding, 0, height, width, stated=stated, source=source)


def read_picture(picture: Raw | Compressed, kind: Kind) -> bytes | Shaped[np.ndarray, "..."]:
    """The content of a frame, as `Frame.content` says.

    JPEG and PNG stay bytes; RVL becomes numbers. Bayer patterns are demosaiced bilinearly; of 16 bits of a Bayer
    pattern the upper 8 are kept.

    Raises:
        SourceError: the encoding or format cannot be read, the data is shorter than its size says, or depth is
            compressed as JPEG, which holds 8 bits.
    """
    try:
        return _read_raw(picture) if isinstance(picture, Raw) else _read_compressed(picture, kind)
    except DecodeError as error:
        raise SourceError(str(error)) from error


def _kind(encoding: str, topic: str) -> Kind:
    if encoding in _COLOUR or encoding in _YUV or encoding in _BAYER:
        return "rgb"
    if encoding in ("mono8", "8UC1"):
        return "grey"
    if encoding in _STATED:
        return "depth"
    if encoding == "mono16":  # of thermal and infrared cameras; the RealSense SDK also writes depth as mono16
        return "depth" if "depth" in topic.lower() else "thermal"
    return "other"


def _look(payload: bytes, topic: str) -> tuple[Kind, int, int]:
    """The kind, height and width of a PNG or JPEG."""
    try:
        with Image.open(io.BytesIO(payload), formats=("PNG", "JPEG")) as image:
            mode, height, width = image.mode, image.height, image.width
    except Exception:  # a damaged file makes Pillow raise many kinds of errors; packing reports it
        return "other", 0, 0
    if mode.startswith("I"):  # 16 bits without a name are as mono16
        return _kind("mono16", topic), height, width
    return "grey" if mode in ("L", "1") else "rgb", height, width


def _read_raw(picture: Raw) -> Shaped[np.ndarray, "..."]:
    encoding = picture.encoding
    if encoding in _COLOUR:
        channels, places = _COLOUR[encoding]
        stored = _rows(picture, "u1", channels)
        return stored if encoding == "rgb8" else np.stack([stored[..., place] for place in places], axis=2)  # fast
    if encoding in _NUMBERS:
        return _rows(picture, _NUMBERS[encoding], 1)[..., 0]
    if encoding in _YUV:
        return _colour_of_yuv(_rows(picture, "u1", 2), _YUV[encoding])
    if encoding in _BAYER:
        pattern, bits = _BAYER[encoding]
        mosaic = _rows(picture, f"u{bits // 8}", 1)[..., 0]
        return _demosaic((mosaic >> (bits - 8)).astype(np.uint8), pattern)
    known = ", ".join([*_COLOUR, *_NUMBERS, *_YUV, "bayer_rggb8 and its kin"])
    raise SourceError(f"the encoding {encoding!r} cannot be read; readable are {known}")


def _rows(picture: Raw, kind: str, channels: int) -> Shaped[np.ndarray, "height width channels"]:
    """The numbers in the machine's byte order, without the padding of rows."""
    stored = np.dtype((">" if picture.big_endian else "<") + kind)
    used = picture.width * channels * stored.itemsize
    step, height = picture.step or used, picture.height
    if step < used:
        raise SourceError(f"a row of {picture.width} pixels of {picture.encoding} has {used} bytes, but step is {step}")
    if not used or not height:
        raise SourceError(f"it has no pixels: its width is {picture.width} and its height {height}")
    data = np.frombuffer(picture.data, np.uint8)
    if len(data) < height * step:
        raise SourceError(
            f"its data is cut short: {height} rows of {step} bytes are {height * step}, but there are {len(data)}"
        )
    rows = np.array(data[: height * step].reshape(height, step)[:, :used])  # a copy that may be written to
    return rows.view(stored).astype(stored.newbyteorder("="), copy=False).reshape(height, picture.width, channels)


def _colour_of_yuv(
    pixels: UInt8[np.ndarray, "height width 2"], places: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB; two neighbouring pixels share U and V."""
    height, width, _ = pixels.shape
    if width % 2:
        raise SourceError(f"pictures in YUV 4:2:2 have an even width, got {width}")
    luma, u, v = places
    pairs = pixels.reshape(height, width // 2, 4)
    chroma = np.repeat(pairs[..., (u, v)], 2, axis=1)
    yuv = np.concatenate([pixels[..., luma : luma + 1], chroma], axis=2).astype(np.float32) - (16, 128, 128)
    return (yuv.astype(np.float32) @ _YUV_TO_RGB).round().clip(0, 255).astype(np.uint8)


def _demosaic(mosaic: UInt8[np.ndarray, "height width"], pattern: str) -> UInt8[np.ndarray, "height width 3"]:
    """Bilinear: a missing colour is the mean of its nearest readings, at most four of them.

    Args:
        mosaic: one colour a pixel.
        pattern: colours of the first two pixels of the first row and of the second, as in ROS: "rggb".
    """
    from scipy.ndimage import convolve

    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32)
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)
    colour = np.empty((*mosaic.shape, 3), np.uint8)
    for channel, (name, weights) in enumerate(zip("rgb", (square, cross, square), strict=True)):
        mask = np.zeros(mosaic.shape, np.float32)
        for place in (place for place in range(4) if pattern[place] == name):
            mask[place // 2 :: 2, place % 2 :: 2] = 1
        total = convolve(mosaic * mask, weights, mode="constant")
        count = convolve(mask, weights, mode="constant")
        colour[..., channel] = (total / count).round()
    return colour


def _read_compressed(picture: Compressed, kind: Kind) -> bytes | Shaped[np.ndarray, "..."]:
    header, file = _split(picture.data)
    metres = _pixels_of(picture.format) == "32FC1"
    if _is_rvl(picture.format):
        header, stored = picture.data, _read_rvl(picture.data)
    elif file.startswith(JPEG) and kind in ("depth", "thermal"):
        raise SourceError(
            "its frames are JPEG, which holds 8 bits, so the readings are lost; record the uncompressed topic, or "
            "compressedDepth with png"
        )
    elif not file.startswith((PNG, JPEG)):
        raise SourceError(f"the format {picture.format!r} ({describe(file)}) cannot be read; readable are jpeg and png")
    elif not metres:
        return file
    else:
        stored = read_pixels(file)
        if stored.dtype != np.uint16 or stored.ndim != 2:
            raise SourceError(f"32FC1 in compressedDepth must be a 16-bit grey PNG, got {describe(file)}")
    return _inverse_depth(header, stored) if metres else stored


def _read_rvl(data: bytes) -> UInt16[np.ndarray, "height width"]:
    height, width = _rvl_size(data)
    if not height * width:
        raise SourceError(f"its RVL is cut short: {len(data)} bytes for {width} x {height} pixels")
    MAX_PIXELS.check(width * height, "a picture in RVL")
    return decode_rvl(data[_HEADER.size + _RVL_SIZE.size :], height * width).reshape(height, width)


def _inverse_depth(header: bytes, stored: UInt16[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """Metres, NaN where there is no reading: a stored number is a / metres + b, and 0 is no reading."""
    _, a, b = _HEADER.unpack_from(header or bytes(_HEADER.size))
    if not a > 0:
        raise SourceError(f"the header of compressedDepth states no quantisation of 32FC1: a = {a:g}, b = {b:g}")
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(a) / (stored.astype(np.float32) - np.float32(b))
    return np.where(stored > 0, metres, np.float32(np.nan))


def _is_rvl(form: str) -> bool:
    return form.rstrip().lower().endswith("compresseddepth rvl") and _pixels_of(form) in _STATED


def _rvl_size(data: bytes) -> tuple[int, int]:
    """Height and width in pixels; 0 if the data is too short to say."""
    if len(data) < _HEADER.size + _RVL_SIZE.size:
        return 0, 0
    width, height = _RVL_SIZE.unpack_from(data, _HEADER.size)
    return height, width


def _split(data: bytes) -> tuple[bytes, bytes]:
    """The header of compressedDepth, empty if there is none, and the file behind it."""
    if not data.startswith((PNG, JPEG)) and data.startswith((PNG, JPEG), _HEADER.size):
        return data[: _HEADER.size], data[_HEADER.size :]
    return b"", data


def _pixels_of(form: str) -> str:
    """The encoding of the pixels that a format names: "16UC1" of "16UC1; compressedDepth png"; else empty."""
    first, separator, _ = form.partition(";")
    return first.strip() if separator else ""
