"""Maps of one number a pixel: the numbers that 16-bit PNG, TIFF, EXR, PFM, .npy and .npz files hold."""

import io
import re
import zipfile
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from modalities import DecodeError
from modalities.codecs.arrays import read_array
from modalities.codecs.exr import EXR, read_exr
from modalities.codecs.raster import MAX_PIXELS, NPY, PNG, TIFF, describe, read_pixels

NO_DATA = 42113  # tag of GDAL: the stored number of "no reading", as text
_SUBFILE, _BITS, _COMPRESSION, _CHANNELS, _FORMAT = 254, 258, 259, 277, 339  # tags (TIFF 6.0, sections 8 and 19)
_COPIES = 1 | 4  # bits of `_SUBFILE`: a page is a smaller copy or a mask of another
_READABLE = ((1, 16), (2, 16), (2, 32), (3, 32))  # sample format and bits
PFM, ZIP = (b"Pf", b"PF"), b"PK"
EXTENSIONS = ("png", "npy", "npz", "tif", "tiff", "exr", "pfm")  # of the files that `read_numbers` reads
KINDS = "16-bit, signed 16-bit, signed 32-bit or 32-bit float"


def read_numbers(payload: bytes, *, what: str, preview: str) -> Shaped[np.ndarray, "1 height width"]:
    """The numbers of a file as they are stored; NaN for those that a TIFF's tag of GDAL names as no data.

    Args:
        payload: the bytes of the file.
        what: the kind of map in messages: "depth".
        preview: why a picture of 8 bits or with colours cannot be such a map, in messages.

    Raises:
        DecodeError: it is of another format, has several numbers a pixel, is damaged, or has too many pixels.
    """
    for start, (name, read) in _READERS.items():
        if payload.startswith(start):
            try:
                return read(payload, what)[None]
            except DecodeError:
                raise
            except Exception as error:  # of any kind, by the kind of damage
                raise DecodeError(f"{name} of {len(payload)} bytes is damaged or cut short: {error}") from error
    if (got := describe(payload)) == "PNG (16-bit grey)":
        return read_pixels(payload)[None]
    why = f": {preview}" if got.startswith(("PNG", "JPEG")) else ""
    if payload.startswith(PNG) and not why:
        raise DecodeError(f"PNG of {len(payload)} bytes is damaged or cut short")
    raise DecodeError(f"{what} must be a 16-bit single-channel PNG, TIFF, EXR, PFM, .npy or .npz, got {got}{why}")


def is_marked(stored: Shaped[np.ndarray, "*shape"], invalid: float) -> Bool[np.ndarray, "*shape"]:
    """True where a stored number is `invalid`."""
    # 99.9 is not the number nearest to it that 32 bits can hold, so floats are compared as they are stored
    with np.errstate(over="ignore"):
        return np.equal(stored, stored.dtype.type(invalid) if stored.dtype.kind == "f" else invalid)


def in_units(
    stored: Shaped[np.ndarray, "*shape"], scale: float, offset: float, invalid: float | None
) -> Float[Tensor, "*shape"]:
    """Stored numbers times `scale` plus `offset`; NaN where they are not finite or `invalid`."""
    values = torch.from_numpy(stored.astype(np.float64)).mul_(scale).add_(offset).float()
    if invalid is not None:
        values[torch.from_numpy(is_marked(stored, invalid))] = torch.nan
    return torch.where(values.isfinite(), values, torch.nan)


def _read_npy(payload: bytes, what: str) -> Shaped[np.ndarray, "height width"]:
    return _as_map(read_array(payload, MAX_PIXELS), what)


def _read_npz(payload: bytes, what: str) -> Shaped[np.ndarray, "height width"]:
    """The only array of a .npz file."""
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        members = archive.infolist()
        if len(members) != 1 or not members[0].filename.endswith(".npy"):
            names = ", ".join(member.filename.removesuffix(".npy") for member in members)
            raise DecodeError(f"{what} in a .npz must be its only array, got {names or 'none'}; save it apart")
        with archive.open(members[0]) as file:
            assert isinstance(file, io.BufferedIOBase)
            return _as_map(read_array(file, MAX_PIXELS, size=members[0].file_size), what)


def _as_map(array: np.ndarray, what: str) -> Shaped[np.ndarray, "height width"]:
    if array.ndim == 3 and 1 in (len(array), array.shape[2]):
        array = array[0] if len(array) == 1 else array[..., 0]
    if array.dtype.kind not in "iuf" or array.ndim != 2 or not array.size:
        raise DecodeError(
            f"{what} must be an integer or float array [height, width], got {array.dtype} {list(array.shape)}"
        )
    return array


def _read_exr(payload: bytes, what: str) -> Shaped[np.ndarray, "height width"]:
    return read_exr(payload, what, MAX_PIXELS)


def _read_pfm(payload: bytes, what: str) -> Shaped[np.ndarray, "height width"]:
    """The numbers of a PFM file, whose rows lie bottom-up; the size of its scale says nothing, the sign the byte order.

    Described by Paul Debevec, https://www.pauldebevec.com/Research/HDR/PFM/.
    """
    if payload.startswith(b"PF"):
        raise DecodeError(f"{what} in a PFM must have one channel (Pf), got three (PF)")
    header = re.match(rb"Pf\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,30})\s", payload)
    if header is None:
        raise ValueError("its header must be Pf, width, height and scale")
    width, height, scale = int(header[1]), int(header[2]), float(header[3])
    MAX_PIXELS.check(height * width, f"PFM of {width} x {height}")
    if not height * width or not scale:
        raise ValueError(f"width, height and scale must not be 0, got {width}, {height} and {scale:g}")
    numbers = np.frombuffer(payload, "<f4" if scale < 0 else ">f4", height * width, header.end())  # raises if cut short
    return numbers.reshape(height, width)[::-1].astype(np.float32)


def _read_tiff(payload: bytes, what: str) -> Shaped[np.ndarray, "height width"]:
    try:
        with TiffImageFile(io.BytesIO(payload)) as image:
            MAX_PIXELS.check(image.width * image.height, f"TIFF of {image.width} x {image.height}")
            _check_tiff(image, what)
            no_data = image.tag_v2.get(NO_DATA)
            stored = np.array(image)  # turned by the TIFF's orientation
    except DecodeError:
        raise
    except Exception as error:  # Pillow lets out whatever damage leads to
        raise DecodeError(
            f"TIFF of {len(payload)} bytes cannot be read: it is damaged, cut short, or does not hold one channel of "
            f"{KINDS} numbers ({error})"
        ) from error
    return stored if no_data is None else np.where(is_marked(stored, float(no_data)), np.nan, stored)


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


_READERS: dict[bytes | tuple[bytes, ...], tuple[str, Callable[[bytes, str], np.ndarray]]] = {
    NPY: (".npy array", _read_npy),
    TIFF: ("TIFF", _read_tiff),
    EXR: ("EXR", _read_exr),
    PFM: ("PFM", _read_pfm),
    ZIP: (".npz", _read_npz),
}
