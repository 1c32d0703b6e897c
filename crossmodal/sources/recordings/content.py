"""Frames of a recording as the bytes of a pair's members."""

import io

import numpy as np
import torch
from jaxtyping import Float, Float32

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.registration import Registration
from crossmodal.sources.recordings.stream import Frame
from modalities import DecodeError, Modality
from modalities.codecs.audio import encode_sound
from modalities.codecs.raster import JPEG, NPY, PNG, TIFF, read_pixels, write_pixels
from modalities.codecs.readings import read_numbers
from modalities.depth import Depth

FAST = {"compress_level": 1}  # of PNG: about as small as the usual 6, and several times as fast
MAGIC = {PNG: "png", JPEG: "jpg", NPY: "npy", **dict.fromkeys(TIFF, "tif"), b"\x76\x2f\x31\x01": "exr", b"Pf": "pfm"}


def as_member(
    frame: Frame, modality: Modality, where: str, registration: Registration | None = None
) -> tuple[str, bytes]:
    """The extension and bytes of a frame as a member of a pair.

    Bytes stay as they are. Pictures and 16-bit numbers become PNG, other numbers .npy, so none is rounded. A depth map
    that is registered is stored with the unit and kind of numbers that it had.

    Args:
        frame: a picture or map.
        modality: of the member, with its stored options.
        where: the frame, for messages.
        registration: moves a depth map into another camera's picture.

    Raises:
        SourceError: the modality does not read such bytes, or the frame cannot be registered.
    """
    content = frame.content
    if registration is not None:
        assert isinstance(modality, Depth)
        try:
            content = _register(content, modality, registration)
        except (DecodeError, ValueError) as error:
            raise SourceError(f"{where}: {error}") from error
    if isinstance(content, np.ndarray):
        return _encode(content)
    extension = next((extension for magic, extension in MAGIC.items() if content.startswith(magic)), "")
    if extension not in modality.extensions:
        held = extension.upper() or f"bytes that begin with {content[:8]!r}"
        raise SourceError(
            f"{where} holds {held}, which {modality.field} does not read ({', '.join(modality.extensions)}); choose "
            "another stream or modality"
        )
    return extension, content


def as_numbers(frame: Frame) -> np.ndarray:
    """The numbers of a frame, decoded if it is stored as a PNG, JPEG or .npy.

    Raises:
        DecodeError: it is stored in another way, or is damaged.
    """
    if isinstance(frame.content, np.ndarray):
        return frame.content
    if frame.content.startswith((PNG, JPEG)):
        return read_pixels(frame.content)
    return read_numbers(frame.content, what="a map", preview="")[0]


def sound_member(sound: Float32[np.ndarray, "channels samples"], rate_hz: int) -> tuple[str, bytes]:
    """The extension and bytes of a piece of sound."""
    return "flac", encode_sound(torch.from_numpy(sound), rate_hz)


def _encode(pixels: np.ndarray) -> tuple[str, bytes]:
    if pixels.dtype in (np.uint8, np.uint16):
        return "png", write_pixels(np.ascontiguousarray(pixels), "PNG", **FAST)
    with io.BytesIO() as file:
        np.save(file, pixels)
        return "npy", file.getvalue()


def _register(content: bytes | np.ndarray, modality: Depth, registration: Registration) -> np.ndarray:
    payload = _encode(content)[1] if isinstance(content, np.ndarray) else content
    metres: Float[np.ndarray, "height width"] = registration(modality.decode(payload)[0].numpy())
    if isinstance(content, np.ndarray) and content.dtype.kind == "f":
        return (metres / modality.scale_m).astype(content.dtype)
    return np.rint(metres / modality.scale_m).clip(max=65535).astype(np.uint16)
