"""Whether the file of a video is whole, by the lengths that its parts state."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
CUT = "the file is cut short: {part} should end at byte {end:,}, but the file has {size:,} bytes; copy it again"


def pointer(path: Path) -> str:
    """That a file is a pointer of Git LFS, in words; empty if it is none."""
    with path.open("rb") as file:
        is_pointer = file.read(24) == b"version https://git-lfs."
    return "the file is only a pointer of Git LFS; fetch its content: git lfs pull" if is_pointer else ""


def damage(path: Path) -> str:
    """What is wrong with a file of video as a whole, in words; empty if nothing is, or if its format is another."""
    size = path.stat().st_size
    if not size:
        return "the file is empty; copy it again"
    if pointer(path):
        return pointer(path)
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _mp4(file, size)
        parts = _ebml(file) if head[:4] == EBML else _riff(file, size) if head[:4] == b"RIFF" else iter(())
        return next((CUT.format(part=part, end=end, size=size) for part, end in parts if end > size), "")


def _mp4(file: BinaryIO, size: int) -> str:
    """ISO/IEC 14496-12, 4.2: boxes, each with its length, in any order."""
    place, names = 0, []
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        names.append(name)
        if length == 0:  # to the end of the file
            break
        if place + length > size:
            return CUT.format(part=f"its part {name.decode('latin-1')!r}", end=place + length, size=size)
        if length < 8:
            break  # not for us to judge
        place += length
    if b"moov" not in names:
        return "the file has no index (no moov box), because its writing was not finished; record it again or repair it"
    return ""


def _ebml(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """RFC 8794: elements, each with its length; the second one holds everything."""
    place = 0
    for name in (EBML, SEGMENT):
        file.seek(place)
        head = file.read(12)
        if head[:4] != name or not head[4:]:
            return
        width = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if length == (1 << 7 * width) - 1:
            return  # a live stream does not state its length
        place += 4 + width + length
        yield "its segment", place


def _riff(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """AVI: one chunk that holds everything, then more of them in large files."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return
        place += 8 + int.from_bytes(head[4:8], "little")
        yield "its chunk", place
