"""What the pairs of a tar are and where their members lie, from its headers or from the index beside it.

An index is a structured array in a .npy file with a row for every pair: its key, label and group, and for every member
its offset, size and CRC-32. Indexes of earlier versions have a row for every member, without label and group.
"""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from crossmodal.checkpoint import write
from crossmodal.data.manifest import Shard, ShardError, name_group, sha256_of
from crossmodal.data.plain import check_text, parse
from crossmodal.stores.paths import AnyPath, SomePath
from modalities.codecs.arrays import read_array

LARGEST = 2**62  # maximum bytes of a member, so that its end does not overflow
LONGEST_HEADER = 1 << 20  # maximum bytes of a long name or of extended attributes in a tar
LONGEST = 4096  # maximum bytes of a key or group
MOST_KINDS = 256  # maximum number of members of different names, such as "rgb.jpg", in a shard
ABSENT = -1  # size of a member that a pair lacks
UNKNOWN = -2  # label of a pair whose facts cannot be read
SPAN = [("offset", "<i8"), ("size", "<i8"), ("crc32", "<u4")]  # of a member, in the index
FACTS = [("label", "<i4"), ("group", "S1")]


@dataclass(frozen=True)
class Row:
    """The positions of one pair's members in its shard."""

    key: str
    members: dict[str, tuple[int, int]]  # "rgb.jpg" -> offset and size in bytes
    problems: list[str] = field(default_factory=list)  # why it is unreadable, such as "has an empty member 'rgb.jpg'"
    sums: dict[str, int] = field(default_factory=dict)  # CRC-32 of each member; empty if there is no index
    label: int | None = None  # class, -1: unlabelled; None: the index does not have it
    group: str = ""


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


def make_index(path: AnyPath) -> bytes:
    """The index of a tar, from a pass over all its bytes.

    Label and group come from a pair's JSON member; without a label there, from a member `cls`, as in WebDataset.

    Raises:
        ShardError: the tar cannot be read, the members of a pair lie apart or have the same name, or a label or group
            is of another type.
    """
    reason: list[str] = []
    rows, problems = rows_of(path, _members(path, reason), path.stat().st_size)
    problems += [f"{path}: pair {row.key!r} {text}" for row in rows for text in row.problems if "an empty" not in text]
    if reason or problems:
        raise ShardError(f"{path}: not a readable tar ({reason[0]})" if reason else problems[0])
    with path.open("rb") as file:
        for number, row in enumerate(rows):
            payloads = {name: _read(file, *span) for name, span in row.members.items()}
            sums = {name: zlib.crc32(payload) for name, payload in payloads.items()}
            try:
                label, group = _facts_of(payloads)
            except ValueError as error:
                raise ShardError(f"{path}: pair {row.key!r}: {error}") from error
            rows[number] = Row(row.key, row.members, row.problems, sums, label, group)
    content = io.BytesIO()
    try:
        np.save(content, Rows.pack(rows).table, allow_pickle=False)
    except ValueError as error:
        raise ShardError(f"{path}: {error}") from error
    return content.getvalue()


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _facts_of(payloads: dict[str, bytes]) -> tuple[int, str]:
    """The label and group of a pair, from its members."""
    facts = parse(payloads["json"]) if "json" in payloads else {}
    facts = facts if isinstance(facts, dict) else {}
    label, group = facts.get("label"), facts.get("group")
    if label is None and "cls" in payloads:
        text = payloads["cls"].decode("ascii", "replace").strip()
        label = int(text) if text.isdigit() else text
    if label is not None and (type(label) is not int or not -1 <= label < 1 << 31):  # True is an int in Python
        raise ValueError(f"its label must be a whole number from -1, got {str(label)[:80]!r}")
    if group is not None and type(group) is not int:
        check_text(group, "json: group")
    return -1 if label is None else label, name_group(group)


def read_rows(path: AnyPath, payload: bytes, size: int) -> tuple["Rows", list[str]]:
    """The rows in the index of a tar of `size` bytes, and the problems of the whole shard; see `scan`.

    Raises:
        ValueError: it is not an index.
    """
    try:
        table = read_array(payload)
        names = table.dtype.names or ()
        if "key" not in names:
            listed, problems = rows_of(path, read_index(payload), size)
            return Rows.pack(listed), problems
        kinds = [table.dtype[name] for name in names[:3]]
        spans = {(name, table.dtype[name].descr == SPAN) for name in names[3:]}
        good = table.ndim == 1 and names[1:3] == ("label", "group") and kinds[1] == "<i4"
        if not good or kinds[0].char + kinds[2].char != "SS" or not all(right for _, right in spans):
            raise ValueError(f"got columns {table.dtype}")
    except ValueError as error:
        raise ValueError(f"it is not a table of key, label, group and members: {str(error)[:200]}") from error
    except Exception as error:  # numpy raises many kinds of error, such as SyntaxError and MemoryError
        raise ValueError(f"it is not a table of key, label, group and members: {error}") from error
    rows = Rows(table)
    for name in rows.members:
        offset, bytes_ = table[name]["offset"], table[name]["size"]
        if (offset < 0).any() or (bytes_ < ABSENT).any() or (bytes_ > LARGEST).any() or (offset > LARGEST).any():
            raise ValueError("offset, size and crc32 must be whole numbers from 0")
        for number in np.flatnonzero((bytes_ == 0) | (offset + bytes_ > size)).tolist():
            member = Member(name, *table[name][number].item())
            rows.problems.setdefault(number, []).extend(_problems(Row("", {}), name, member, size))
    return rows, []


def read_index(payload: bytes) -> list[Member]:
    """The members in an index of an earlier version.

    Raises:
        ValueError: it is not such an index.
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
    """The rows of a shard as one structured array of about 100 bytes a pair, as an index holds it."""

    table: np.ndarray  # key; label and group if they are known; offset, size and CRC-32 (if known) of every member
    problems: dict[int, list[str]] = field(default_factory=dict)  # by the number of the row

    @classmethod
    def pack(cls, rows: list[Row]) -> "Rows":
        """The rows of a shard, in their order.

        Raises:
            ValueError: a key or group is too long, or members have too many different names.
        """
        names = [*dict.fromkeys(name for row in rows for name in row.members)]
        keys, groups = ([text.encode(errors="surrogateescape") for text in texts]
                        for texts in ([row.key for row in rows], [row.group for row in rows]))  # fmt: skip
        if len(names) > MOST_KINDS or len({*names, "key", "label", "group"}) != len(names) + 3:
            raise ValueError(f"its members must have at most {MOST_KINDS} names other than key, label and group")
        if any(len(text) > LONGEST or b"\0" in text for text in (*keys, *groups)):
            raise ValueError(f"keys and groups must have at most {LONGEST} bytes, none of them 0")
        with_facts = all(row.label is not None for row in rows)
        span = SPAN if all(row.sums or not row.members for row in rows) else SPAN[:2]
        columns: list[Any] = [("key", f"S{max(map(len, keys), default=1)}")]
        columns += [FACTS[0], ("group", f"S{max(1, *map(len, groups))}")] if with_facts and rows else []
        table = np.zeros(len(rows), dtype=[*columns, *((name, span) for name in names)])
        table["key"] = keys
        if with_facts and rows:
            table["label"], table["group"] = [row.label for row in rows], groups
        for name in names:
            table[name] = [
                (*row.members[name], *([row.sums[name]] if span is SPAN else ())) if name in row.members
                else (0, ABSENT, 0)[: len(span)]
                for row in rows
            ]  # fmt: skip
        return cls(table, {number: row.problems for number, row in enumerate(rows) if row.problems})

    @property
    def members(self) -> tuple[str, ...]:
        """The names of all members."""
        return tuple(name for name in self.table.dtype.names or () if self.table.dtype[name].names)

    @property
    def has_facts(self) -> bool:
        """True if label and group of every pair are known."""
        return "label" in (self.table.dtype.names or ())

    def with_facts(self, facts: list[tuple[int, str]]) -> "Rows":
        """The same rows with label and group; label `UNKNOWN`: they cannot be read."""
        groups = [group.encode() for _, group in facts]
        columns = [("key", self.table.dtype["key"]), FACTS[0], ("group", f"S{max(1, *map(len, groups))}")]
        table = np.zeros(len(self.table), dtype=[*columns, *((name, self.table.dtype[name]) for name in self.members)])
        for name in ("key", *self.members):
            table[name] = self.table[name]
        table["label"], table["group"] = [label for label, _ in facts], groups
        return Rows(table, self.problems)

    def lacks(self, member: str) -> np.ndarray:
        """True for every pair that lacks the member."""
        if member not in self.members:
            return np.ones(len(self.table), dtype=bool)
        return np.asarray(self.table[member]["size"] == ABSENT)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, number: int) -> Row:
        record = dict(zip(self.table.dtype.names or (), self.table[number].item(), strict=True))
        spans = {name: record[name] for name in self.members if record[name][1] != ABSENT}
        label = record["label"] if self.has_facts and record["label"] != UNKNOWN else None
        return Row(
            record["key"].decode(errors="surrogateescape"),
            {name: span[:2] for name, span in spans.items()},
            self.problems.get(number, []),
            {name: span[2] for name, span in spans.items() if len(span) == len(SPAN)},
            label,
            record["group"].decode() if self.has_facts else "",
        )
