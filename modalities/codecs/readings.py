"""Maps of one number a pixel: the numbers that 16-bit PNG, .npy and TIFF files hold."""

import io

import numpy as np
from jaxtyping import Bool, Shaped
from PIL.TiffImagePlugin import TiffImageFile

from modalities import DecodeError
from modalities.codecs.arrays import read_array
from modalities.codecs.raster import JPEG, MAX_PIXELS, NPY, PNG, TIFF, describe, read_pixels

NO_DATA = 42113  # tag of GDAL: the stored number of "no reading", as text
_SUBFILE, _BITS, _COMPRESSION, _CHANNELS, _FORMAT = 254, 258, 259, 277, 339  # tags (TIFF 6.0, sections 8 and 19)
_COPIES = 1 | 4  # bits of `_SUBFILE`: a page is a smaller copy or a mask of another
_READABLE = ((1, 16), (2, 16), (2, 32), (3, 32))  # sample format and bits
KINDS = "16-bit, signed 16-bit, signed 32-bit or 32-bit float"


def read_numbers(
    payload: bytes, *, what: str, preview: str, tiff: bool = False
) -> Shaped[np.ndarray, "1 height width"]:
    """The numbers of a file as they are stored; NaN for those that a TIFF's tag of GDAL names as no data.

    Args:
        payload: the bytes of the file.
        what: the kind of map in messages: "depth".
        preview: why a picture of 8 bits or with colours cannot be such a map, in messages.
        tiff: whether a TIFF may hold one.

    Raises:
        DecodeError: it is of another format, has several numbers a pixel, is damaged, or has too many pixels.
    """
    if payload.startswith(NPY):
        return _read_npy(payload, what)
    if tiff and payload.startswith(TIFF):
        return _read_tiff(payload, what)
    got = describe(payload)
    if got == "PNG (16-bit grey)":
        return read_pixels(payload)[None]
    formats = "16-bit single-channel PNG, .npy or TIFF" if tiff else "16-bit single-channel PNG or .npy"
    why = f": {preview}" if payload.startswith((PNG, JPEG)) else ""
    raise DecodeError(f"{what} must be a {formats}, got {got}{why}")


def is_marked(stored: Shaped[np.ndarray, "*shape"], invalid: float) -> Bool[np.ndarray, "*shape"]:
    """True where a stored number is `invalid`."""
    # 99.9 is not the number nearest to it that 32 bits can hold, so floats are compared as they are stored
    with np.errstate(over="ignore"):
        return np.equal(stored, stored.dtype.type(invalid) if stored.dtype.kind == "f" else invalid)


def _read_npy(payload: bytes, what: str) -> Shaped[np.ndarray, "1 height width"]:
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
            f"{what} must be an integer or float array [height, width], got {array.dtype} {list(array.shape)}"
        )
    return array.reshape(1, *array.shape[-2:])


def _read_tiff(payload: bytes, what: str) -> Shaped[np.ndarray, "1 height width"]:
    try:
        with TiffImageFile(io.BytesIO(payload)) as image:
            MAX_PIXELS.check(image.width * image.height, f"TIFF of {image.width} x {image.height}")
            _check_tiff(image, what)
            no_data = image.tag_v2.get(NO_DATA)
            stored = np.array(image)  # turned by the TIFF's orientation
        if no_data is not None:
            stored = np.where(is_marked(stored, float(no_data)), np.nan, stored)
    except DecodeError:
        raise
    except Exception as error:  # Pillow lets out whatever damage leads to
        raise DecodeError(
            f"TIFF of {len(payload)} bytes cannot be read: it is damaged, cut short, or does not hold one channel of "
            f"{KINDS} numbers ({error})"
        ) from error
    return stored[None]


def _check_tiff(image: TiffImageFile, what: str) -> None:
    """Refuses TIFFs of several channels or pages, and those whose numbers Pillow cannot read or reads wrongly.

    Raises:
        DecodeError: it is such a file.
    """
    tags = image.tag_v2
    kind, bits, channels = (tags.get(tag, 1) for tag in (_FORMAT, _BITS, _CHANNELS))
    kind, bits = (value[0] if isinstance(value, tuple) else value for value in (kind, bits))
    if channels != 1 or (kind, bits) not in _READABLE:
        raise DecodeError(
            f"{what} in a TIFF must be one channel of {KINDS} numbers, got {channels} of {bits} bits, sample format "
            f"{kind}; convert it, to 32-bit float if in doubt"
        )
    if tags.prefix == b"MM" and tags.get(_COMPRESSION, 1) != 1 and (kind, bits) != (1, 16):
        raise DecodeError(f"{what} in a TIFF must not be both big-endian and compressed; save it without compression")
    for page in range(1, image.n_frames):
        image.seek(page)
        if not image.tag_v2.get(_SUBFILE, 0) & _COPIES:
            raise DecodeError(f"{what} in a TIFF must be its only page, got {image.n_frames} pages; save them apart")
    image.seek(0)
