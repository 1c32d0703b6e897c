"""The positions of the members of a tar, from its headers or from the index beside it."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from crossmodal.checkpoint import write
from crossmodal.data.manifest import Shard, ShardError, sha256_of
from crossmodal.stores.paths import AnyPath, SomePath
from modalities.codecs.arrays import read_array

LARGEST = 2**62  # maximum bytes of a member, so that its end does not overflow
LONGEST_HEADER = 1 << 20  # maximum bytes of a long name or of extended attributes in a tar


@dataclass(frozen=True)
class Row:
    """The positions of one pair's members in its shard."""

    key: str
    members: dict[str, tuple[int, int]]  # "rgb.jpg" -> offset and size in bytes
    problems: list[str] = field(default_factory=list)  # why it is unreadable, such as "has an empty member 'rgb.jpg'"
    sums: dict[str, int] = field(default_factory=dict)  # CRC-32 of each member; empty if there is no index


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    size: int
    crc32: int | None = None  # None: not known


def scan(path: AnyPath) -> tuple[list[Row], list[str]]:
    """The rows of a shard, from its headers alone, and the problems of the whole shard, each in one sentence."""
    reason: list[str] = []
    rows, problems = rows_of(path, _members(path, reason), path.stat().st_size)
    if reason and not rows:
        problems.append(f"{path}: not a readable tar ({reason[0]})")
    elif reason and not rows[-1].problems:
        rows[-1].problems.append(f"is cut short ({reason[0]})")
    return rows, problems


def rows_of(path: AnyPath, members: Iterable[Member], size: int) -> tuple[list[Row], list[str]]:
    """The rows of a shard's members, in a file of `size` bytes; see `scan`."""
    rows: list[Row] = []
    problems: list[str] = []
    seen: set[str] = set()
    for member in members:
        key, _, name = member.name.rpartition("/")[2].partition(".")
        if not rows or rows[-1].key != key:
            if key in seen:
                problems.append(f"{path}: pair {key!r} is interleaved: {name!r} is separated from its other members")
            seen.add(key)
            rows.append(Row(key, {}))
        rows[-1].problems.extend(_problems(rows[-1], name, member, size))
        rows[-1].members[name] = (member.offset, member.size)
        if member.crc32 is not None:
            rows[-1].sums[name] = member.crc32
    return rows, problems


def _members(path: AnyPath, reason: list[str]) -> Iterator[Member]:
    """The files in a tar, from its headers; if these end too early, the cause is added to `reason`."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them in memory
                if not 0 <= entry.size <= LARGEST:
                    reason.append(f"a header gives {entry.name!r} a size of {entry.size} bytes")
                    return
                if entry.isfile():
                    yield Member(entry.name, entry.offset_data, entry.size)
    except OSError:
        raise
    except Exception as error:  # damaged headers raise many kinds of error, such as RecursionError and KeyError
        reason.append(str(error) or type(error).__name__)


class _Headers(io.RawIOBase):
    """A tar from which only headers can be read, so that an absurd size in a header costs no memory.

    Raises:
        tarfile.ReadError: a read is larger than a header may be.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header must have 0 to {LONGEST_HEADER} bytes, got {size}")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if not 0 <= offset < 1 << 63:
            raise tarfile.ReadError(f"a header must lie in the file, got byte {offset}")
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def index_path(path: SomePath) -> SomePath:
    """The path of a tar's index."""
    return path.with_suffix(".index.npy")


def seal(path: Path, pairs: int) -> Shard:
    """Writes the index of a complete tar, and returns the tar's entry in the manifest.

    Raises:
        ShardError: the tar cannot be read.
    """
    index = make_index(path)
    write(index_path(path), index)
    return Shard(path.name, pairs, path.stat().st_size, sha256_of(path), hashlib.sha256(index).hexdigest())


def make_index(path: Path) -> bytes:
    """A structured array as a .npy file: name, offset, size and CRC-32 of every member, in the order of the tar.

    Raises:
        ShardError: the tar cannot be read.
    """
    reason: list[str] = []
    members = [*_members(path, reason)]
    if reason:
        raise ShardError(f"{path}: not a readable tar ({reason[0]})")
    with path.open("rb") as file:
        sums = [zlib.crc32(os.pread(file.fileno(), member.size, member.offset)) for member in members]
    names = [member.name.encode() for member in members]
    kind = [("name", f"S{max(map(len, names), default=1)}"), ("offset", "<i8"), ("size", "<i8"), ("crc32", "<u4")]
    rows = [(name, item.offset, item.size, crc) for name, item, crc in zip(names, members, sums, strict=True)]
    content = io.BytesIO()
    np.save(content, np.array(rows, dtype=kind), allow_pickle=False)
    return content.getvalue()


def read_index(payload: bytes) -> list[Member]:
    """The members in an index.

    Raises:
        ValueError: it is not an index.
    """
    try:
        table = read_array(payload)
        columns = [table[name].tolist() for name in ("offset", "size", "crc32")]
        names = [name.decode() for name in table["name"].tolist()]
        members = [Member(*row) for row in zip(names, *columns, strict=True)]
    except Exception as error:  # numpy raises many kinds of error, such as SyntaxError and MemoryError
        raise ValueError(f"it is not a table of name, offset, size and crc32: {error}") from error
    if any(type(value) is not int or value < 0 for column in columns for value in column):
        raise ValueError("offset, size and crc32 must be whole numbers from 0")
    return members


def _problems(row: Row, name: str, member: Member, size: int) -> Iterator[str]:
    """The problems of a row's next member, in a file of `size` bytes."""
    if name in row.members:
        yield f"has a duplicated member {name!r}"
    if member.size == 0:
        yield f"has an empty member {name!r} (zero bytes)"
    if member.offset + member.size > size:
        yield f"is truncated inside {name!r}; the file ends at byte {size}"


@dataclass(frozen=True)
class Rows:
    """The rows of a shard in about 150 bytes each, a fifth of a `Row`, so that those of all shards fit in memory."""

    keys: list[str]
    names: list[tuple[str, ...]]  # names of each row's members; equal rows share one tuple
    starts: np.ndarray  # position of each row's first span
    spans: np.ndarray  # offset and size in bytes of every member, row by row
    sums: np.ndarray  # CRC-32 of every member; empty if there is no index
    problems: dict[int, list[str]]  # by the number of the row

    @classmethod
    def pack(cls, rows: list[Row]) -> "Rows":
        """The rows of a shard, in their order."""
        names = [tuple(row.members) for row in rows]
        shared = {each: each for each in names}
        return cls(
            [row.key for row in rows],
            [shared[each] for each in names],
            np.cumsum([0] + [len(each) for each in names], dtype=np.int64),
            np.array([span for row in rows for span in row.members.values()], dtype=np.int64).reshape(-1, 2),
            np.array([row.sums[name] for row in rows for name in row.members if row.sums], dtype=np.uint32),
            {number: row.problems for number, row in enumerate(rows) if row.problems},
        )

    def __getitem__(self, number: int) -> Row:
        own = slice(self.starts[number], self.starts[number + 1])
        members = dict(zip(self.names[number], map(tuple, self.spans[own].tolist()), strict=True))
        sums = dict(zip(self.names[number], self.sums[own].tolist(), strict=bool(len(self.sums))))
        return Row(self.keys[number], members, self.problems.get(number, []), sums)
