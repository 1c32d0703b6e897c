"""Pixels from and to the bytes of PNG and JPEG files."""

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image

from modalities import DecodeError
from modalities.common.options import Limit

PNG, NPY, JPEG = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little and big-endian; the last two have sizes of 64 bits
MAX_PIXELS = Limit("CROSSMODAL_MAX_PIXELS", 50_000_000, "pixels")  # of a picture: a few kilobytes may claim billions
Image.MAX_IMAGE_PIXELS = None  # `MAX_PIXELS` is checked first; Pillow's own limit would stop larger ones that it allows
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")  # a byte 255 of the data is followed by 0
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_EXIF = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may hold an orientation
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGB and alpha"}


def describe(payload: bytes) -> str:
    """The format that the first bytes claim, for messages: "PNG (16-bit grey)"."""
    if payload.startswith(PNG) and len(payload) > 25:
        return f"PNG ({payload[24]}-bit {_PNG_COLOURS.get(payload[25], 'unknown')})"
    if payload.startswith(JPEG):
        return "JPEG"
    if payload.startswith(NPY):
        return ".npy array"
    if payload.startswith(TIFF):
        return "TIFF"
    return f"{len(payload)} bytes that begin with {payload[:8]!r}"


def read_pixels(payload: bytes, *, mode: str | None = None) -> np.ndarray:
    """The numbers of a PNG or JPEG as a viewer shows them, [height, width] or with channels last.

    A picture is turned and mirrored by its EXIF orientation. Text and colour profiles of a PNG, and bytes behind the
    end of a file, such as the film of a motion photo, do not matter.

    By Pillow: torchvision's codecs are twice as fast, but deprecated since 0.29 in favour of torchcodec, and 0.29.1
    crashes on damaged PNGs.

    Args:
        payload: of the file.
        mode: Pillow's name of what to convert to, "RGB"; None leaves the numbers as they are.

    Raises:
        DecodeError: the picture is damaged or cut short, or claims more pixels than `MAX_PIXELS` allows.
    """
    try:
        if payload.startswith(JPEG):
            pixels, orientation = _read_jpeg(payload, mode)
        else:
            pixels, orientation = _read_png(payload, mode)
    except DecodeError:
        raise
    except Exception as error:  # Pillow lets out whatever damage leads to, AssertionError and struct.error included
        raise DecodeError(f"{describe(payload)} of {len(payload)} bytes is damaged or cut short: {error}") from error
    return _turned(pixels, orientation or 1)


def orientation_of(payload: bytes) -> int | None:
    """The orientation of a JPEG, PNG or TIFF, 1 (upright) to 8; None where it has none that can be read."""
    try:
        if payload.startswith(PNG):
            payload = _without_text(payload, [*_chunks(payload)])
        with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG", "TIFF")) as image:
            orientation = _tag(image)
        # most programs write 1 into every TIFF, whether they know how the picture lies or not
        return None if payload.startswith(TIFF) and orientation == 1 else orientation
    except Exception:  # see `read_pixels`, which refuses it
        return None


def _decode(payload: bytes, mode: str | None) -> tuple[np.ndarray, int | None]:
    """Pixels as they are stored, and the EXIF orientation."""
    with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as image:
        pixels = np.array(image if mode is None else image.convert(mode))
        return pixels, _tag(image)


def _tag(image: Image.Image) -> int | None:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF that is damaged says nothing of the picture; viewers show it as stored
        return None
    return found if found in range(1, 9) else None


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as they are meant to be seen (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:  # stored columns are rows
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _read_jpeg(payload: bytes, mode: str | None) -> tuple[np.ndarray, int | None]:
    height, width, end = _read_jpeg_header(payload)
    MAX_PIXELS.check(height * width, f"{describe(payload)} of {width} x {height}")
    pixels, orientation = _decode(payload, mode)
    corner = pixels[-1, -1].astype(float)
    grey = corner @ (0.299, 0.587, 0.114) if corner.shape == (3,) else corner.mean()
    if abs(grey - 128) <= 3:
        # Pillow shows mid-grey for all that is missing. More data before the end change a picture that lacks some, and
        # are ignored in one that is whole.
        more = bytes(1 + 37 * number % 254 for number in range(256))
        if not np.array_equal(_decode(payload[:end] + more + payload[end:], mode)[0], pixels):
            raise EOFError("its data end before its last rows")
    return pixels, orientation


def _read_jpeg_header(payload: bytes) -> tuple[int, int, int]:
    """Height, width and the offset of the end-of-image marker (ITU T.81, annex B).

    Raises:
        ValueError: there is no frame or no end, its data are fewer than any picture of this size has, or a progressive
            picture lacks scans.
    """
    height = width = needed = 0
    left: dict[int, list[int]] = {}  # of a progressive picture's components: bits that each of 64 coefficients lacks
    place = 2
    while marker := _JPEG_MARKER.search(payload, place):
        code, place = payload[marker.start() + 1], marker.end()
        if code == 0xD9:
            if not height or not width:
                raise ValueError("no frame before the end-of-image marker")
            if needed > 8 * marker.start():
                raise ValueError(f"{width} x {height} pixels take at least {needed // 8} bytes")
            if any(map(any, left.values())):
                raise EOFError("it lacks its last scans, which would make it sharper")
            return height, width, marker.start()
        if 0xD0 <= code <= 0xD8 or code == 1:
            continue  # markers without a segment; restarts lie within the data
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC) and not height:
            height, width = struct.unpack_from(">HH", payload, place + 3)
            # in Huffman coding a block of 64 numbers takes a bit or more; other kinds of coding have no such bound
            blocks = (height + 7) // 8 * ((width + 7) // 8)  # of the component of full size
            needed = blocks if code <= 0xC2 else 0
            if code == 0xC2:
                left = {name: [16] * 64 for name in payload[place + 8 : place + 8 + 3 * payload[place + 7] : 3]}
        if code == 0xDA and left:
            count = payload[place + 2]
            first, last, bits = payload[place + 3 + 2 * count : place + 6 + 2 * count]
            for name in {*payload[place + 3 : place + 3 + 2 * count : 2]} & left.keys():
                left[name][first : last + 1] = [bits & 15] * (last + 1 - first)
        place += max(2, int.from_bytes(payload[place : place + 2], "big"))
    raise EOFError("no end-of-image marker after the last scan")


def _chunks(png: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end (with length and checksum) of each chunk up to the last (PNG specification, section 5).

    Raises:
        ValueError: a checksum differs, or the end is missing.
    """
    place, name = len(PNG), b""
    while name != b"IEND":
        if place + 12 > len(png):
            raise EOFError("no end chunk")
        size, name = struct.unpack_from(">I4s", png, place)
        end = place + 12 + size
        if end > len(png):
            raise EOFError(f"chunk {name!r} ends behind the file")
        if zlib.crc32(memoryview(png)[place + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
            raise ValueError(f"the checksum of chunk {name!r} differs")
        yield name, place, end
        place = end


def _read_png(payload: bytes, mode: str | None) -> tuple[np.ndarray, int | None]:
    chunks = [*_chunks(payload)]
    width, height, bits, colour = struct.unpack_from(">IIBB", payload, len(PNG) + 8)
    needed = height * (1 + (width * bits * _PNG_CHANNELS.get(colour, 1) + 7) // 8)  # a filter's number begins a row
    compressed = sum(end - start - 12 for name, start, end in chunks if name == b"IDAT")
    if needed > 1032 * (compressed + 1):  # deflate shrinks nothing to less than that
        raise EOFError(f"{width} x {height} pixels take more than {compressed} bytes")
    MAX_PIXELS.check(height * width, f"{describe(payload)} of {width} x {height}")
    pixels, orientation = _decode(_without_text(payload, chunks), mode)
    # Pillow shows 0 for all that is missing, in an interlaced picture in every second row
    if any((row == row[0]).all() for row in pixels[-2:]) and _inflated(payload, chunks, needed) < needed:
        raise EOFError("its data end before its last rows")
    return pixels, orientation


def _inflated(png: bytes, chunks: list[tuple[bytes, int, int]], most: int) -> int:
    """How many bytes the data of a PNG give, counted up to `most` or little more."""
    inflate, count = zlib.decompressobj(), 0
    for name, start, end in chunks:
        data = png[start + 8 : end - 4] if name == b"IDAT" else b""
        while data and count < most and not inflate.eof:
            count += len(inflate.decompress(data, 1 << 20))
            data = inflate.unconsumed_tail
    return count + len(inflate.flush()) if count < most else count


def _without_text(png: bytes, chunks: list[tuple[bytes, int, int]]) -> bytes:
    """The chunks that decide what is seen: Pillow refuses long texts and large colour profiles."""
    kept = [
        png[start:end]
        for name, start, end in chunks
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
        or (name in (b"zTXt", b"iTXt", b"tEXt") and end - start < 1 << 16 and png.startswith(_PNG_EXIF, start + 8))
    ]
    return PNG + b"".join(kept)


def write_pixels(pixels: np.ndarray, kind: str, **options: int | str) -> bytes:
    """A file of Pillow's `kind`, "PNG" or "JPEG"; uint16 makes a 16-bit PNG."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()
