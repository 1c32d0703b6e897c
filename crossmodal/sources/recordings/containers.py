"""Whether the file of a video is whole, by the lengths that its parts state."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # of Matroska and WebM
MP4 = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def pointer(path: Path) -> str:
    """A sentence if a file is only a pointer of Git LFS; otherwise empty."""
    with path.open("rb") as file:
        is_pointer = file.read(24) == b"version https://git-lfs."
    return "the file is only a pointer of Git LFS; fetch its content: git lfs pull" if is_pointer else ""


def damage(path: Path) -> str:
    """The fault of a video file as a whole, in words; empty if there is none, or if its format is another."""
    size = path.stat().st_size
    if not size or pointer(path):
        return pointer(path) or "the file is empty; copy it again"
    with path.open("rb") as file:
        head = file.read(12)
        is_mp4 = head[4:8] in MP4
        found = _boxes(file, size) if is_mp4 or head[:4] == b"RIFF" else _ebml(file)
        parts = list(found)
    for part, end in parts:
        if end > size:
            return (
                f"the file is cut short: its part {part!r} should end at byte {end:,}, but the file has {size:,} "
                "bytes; copy it again"
            )
    if is_mp4 and "moov" not in dict(parts):
        return "the file has no index (no moov box), because its writing was not finished; record it again or repair it"
    return ""


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[str, int]]:
    """Names and ends of the boxes of an mp4 (ISO/IEC 14496-12, 4.2), in any order, or of the chunks of an AVI."""
    place, is_avi = 0, False
    while place + 8 <= size:
        file.seek(place)
        head = file.read(16)
        name, length = head[4:8], int.from_bytes(head[:4], "big")
        if head[:4] == b"RIFF":
            is_avi, name, length = True, head[:4], 8 + int.from_bytes(head[4:8], "little")
        elif length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - place
        if length < 8 or (is_avi and name != b"RIFF"):
            return  # not for us to judge
        place += length
        yield name.decode("latin-1"), place


def _ebml(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """The ends of the header and the segment of a Matroska file (RFC 8794); none of another file."""
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
        yield "Segment" if name == SEGMENT else "EBML", place
