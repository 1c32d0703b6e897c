"""Paired WebDataset shards and their manifest: open, index, read any pair.

A shard is a tar in WebDataset's layout: ``000123.rgb.jpg``, ``000123.depth.png``, ``000123.json``, the members of a
pair side by side. A folder of shards holds `MANIFEST`, written last, so that a folder without one is known to be
unfinished. Beside every tar lies an index: name, offset, size and CRC-32 of every member. Any pair is one read away,
and a member whose bytes are not those that were packed is refused; WebDataset reads the tars as a stream.
"""

import errno
import hashlib
import io
import json
import os
import resource
import tarfile
import weakref
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from crossmodal.checkpoint import write
from crossmodal.plain import build, check_text, parse

MANIFEST = "manifest.json"
FORMAT = "crossmodal-shards/2"
EARLIER = "crossmodal-shards/1"  # without indexes
OPEN_SHARE = 8  # a folder holds open as many shards as this share of the files that the process may open
MOST_OPEN = 4096  # where the process may open any number
LONGEST_HEADER = 1 << 20  # bytes of a long name or of extended attributes in a tar


class ShardError(ValueError):
    """A shard or manifest that is not what it should be; the message names shard, key and field."""


@dataclass(frozen=True)
class Field:
    """What a member of the pairs is."""

    modality: str  # catalogue name
    extension: str  # of its members, without the dot
    stored: dict[str, float]  # the modality's options that describe the bytes: unit scale, invalid value


@dataclass(frozen=True)
class Shard:
    """One tar of a folder."""

    file: str
    pairs: int
    bytes: int
    sha256: str
    index: str = ""  # sha256 of the index beside it; empty: there is none


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds."""

    pairs: int
    classes: list[str]
    fields: dict[str, Field]
    shards: list[Shard]
    statistics: dict[str, dict[str, float]]  # of each field's signal, in its physical unit
    labels: dict[str, int] = field(default_factory=dict)  # pairs of each class
    groups: dict[str, int] = field(default_factory=dict)  # pairs of each group
    lacking: dict[str, int] = field(default_factory=dict)  # pairs without a field, where some may lack it
    format: str = FORMAT

    @property
    def digest(self) -> str:
        """Names the data: equal for equal bytes, read in the same way."""
        fields = {name: asdict(spec) for name, spec in self.fields.items()}
        told = json.dumps([fields, self.classes, [shard.sha256 for shard in self.shards]], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """Where the members of one pair lie in its shard."""

    key: str
    members: dict[str, tuple[int, int]]  # "rgb.jpg" -> offset and size in bytes
    problems: list[str] = field(default_factory=list)  # why it cannot be read, as in "has an empty member 'rgb.jpg'"
    sums: dict[str, int] = field(default_factory=dict)  # CRC-32 of each member; empty where there is no index


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        ShardError: there is none, it is not one, or its pairs are not the sum of its shards'.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if parts := sorted(found.parent.name for found in folder.glob(f"*/{MANIFEST}")):
            raise ShardError(
                f"{folder} holds the shards of {', '.join(parts)}: name one of them, as {folder / parts[-1]}"
            )
        there = "the folder exists but its shards were not finished" if folder.is_dir() else "there is no such folder"
        raise ShardError(f"{path} is missing ({there}); make shards with: crossmodal shards CONFIG")
    try:
        return _manifest(parse(path.read_bytes()))
    except ValueError as error:
        raise ShardError(f"{path} is not a manifest: {error}") from error


def _manifest(content: Any) -> Manifest:
    check_format(content, FORMAT, EARLIER)
    manifest = build(Manifest, content)
    check_files(manifest.shards)
    if manifest.pairs != (total := sum(shard.pairs for shard in manifest.shards)):
        raise ValueError(f"pairs must be the sum of its shards', {total}, got {manifest.pairs!r}")
    for name, spec in manifest.fields.items():
        if not _is_name(name) or not _is_name(spec.extension) or "." in name:
            raise ValueError(f"fields must be named by letters that a file name may have, got {name!r}")
        if name not in manifest.statistics:
            raise ValueError(f"statistics lack the field {name!r}")
    if unknown := manifest.lacking.keys() - manifest.fields.keys():
        raise ValueError(f"lacking must name fields, got {min(unknown)!r}")
    if manifest.classes and (others := manifest.labels.keys() - {*manifest.classes}):
        raise ValueError(f"labels must name classes, got {min(others)!r}")
    return manifest


def check_format(content: Any, *known: str) -> None:
    """Refuses the content of a manifest of another format, before anything else is said of it.

    Raises:
        ValueError: it is no mapping, or its format is none of those that are known, the newest of which comes first.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if found not in known:
        raise ValueError(f"format must be {known[0]!r}, got {str(found)[:80]!r}")


def check_files(shards: list[Shard]) -> None:
    """Refuses the shards of a manifest that are not different files of its own folder.

    Raises:
        ValueError: a name is that of another folder, or comes twice.
    """
    seen: set[str] = set()
    for shard in shards:
        if not _is_name(shard.file):
            raise ValueError(f"file of a shard must be the name of a file in the same folder, got {shard.file!r}")
        if shard.file in seen:
            raise ValueError(f"shards must be different files, got {shard.file!r} twice")
        seen.add(shard.file)


def _is_name(text: str) -> bool:
    """Whether it names one file of a folder."""
    return text.isprintable() and text not in ("", ".", "..") and not {"/", "\\"} & {*text}


def parse_facts(payload: bytes, classes: int) -> dict[str, Any]:
    """A JSON member: label (-1 where there is none), group, and whatever the source knew.

    Raises:
        ValueError: it is no object with a whole label and a group of text, the label is none of the classes (where
            there are any), or a number in it is not finite.
    """
    try:
        facts = parse(payload)
        label = facts["label"]
    except (ValueError, TypeError, KeyError) as error:
        if "finite" in str(error):
            raise
        label = None
    # a bool is an int to Python, and 1.0 or "1" to int()
    if type(label) is not int or not -1 <= label < (classes or 1 << 31):
        upper = f"to {classes - 1}" if classes else "up"
        raise ValueError(f"json must be an object with a whole 'label' from -1 {upper}, got {payload[:80]!r}")
    group = facts.get("group")
    if group is not None and type(group) is not int:
        check_text(group, "json: group")
    return facts


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    size: int
    crc32: int | None = None  # None where it is not known


def scan(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a shard from its headers alone, and what is wrong with the shard as a whole, each in one sentence."""
    reason: list[str] = []
    rows, problems = _rows_of(path, _members(path, reason), path.stat().st_size)
    if reason and not rows:
        problems.append(f"{path}: not a readable tar ({reason[0]})")
    elif reason and not rows[-1].problems:
        rows[-1].problems.append(f"is cut short ({reason[0]})")
    return rows, problems


def _rows_of(path: Path, members: Iterable[Member], size: int) -> tuple[list[Row], list[str]]:
    """The rows that a shard's members make, in a file of `size` bytes; see `scan`."""
    rows: list[Row] = []
    problems: list[str] = []
    seen: set[str] = set()
    for member in members:
        key, _, name = member.name.rpartition("/")[2].partition(".")
        if not rows or rows[-1].key != key:
            if key in seen:
                problems.append(f"{path}: pair {key!r} is interleaved: {name!r} lies apart from its other members")
            seen.add(key)
            rows.append(Row(key, {}))
        rows[-1].problems.extend(_problems(rows[-1], name, member, size))
        rows[-1].members[name] = (member.offset, member.size)
        if member.crc32 is not None:
            rows[-1].sums[name] = member.crc32
    return rows, problems


def _members(path: Path, reason: list[str]) -> Iterator[Member]:
    """The files in a tar by its headers; why they end too early, if they do, is added to `reason`."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if entry.size < 0:
                    reason.append(f"a header gives {entry.name!r} a size of {entry.size} bytes")
                    return
                if entry.isfile():
                    yield Member(entry.name, entry.offset_data, entry.size)
    except OSError:
        raise
    except Exception as error:  # of damaged headers tarfile raises many kinds, RecursionError and KeyError among them
        reason.append(str(error) or type(error).__name__)


class _Headers(io.RawIOBase):
    """A tar of which only headers are read: a header that tells of an absurd size costs no memory.

    Raises:
        tarfile.ReadError: more is asked for than a header may have.
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


def index_path(path: Path) -> Path:
    """The index of a tar."""
    return path.with_suffix(".index.npy")


def seal(path: Path, pairs: int) -> Shard:
    """Writes the index of a tar that is done, and gives what a manifest says of the tar.

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


def _read_index(payload: bytes) -> list[Member]:
    """The members that an index tells.

    Raises:
        ValueError: it is no index.
    """
    try:
        table = np.load(io.BytesIO(payload), allow_pickle=False)
        columns = [table[name].tolist() for name in ("offset", "size", "crc32")]
        names = [name.decode() for name in table["name"].tolist()]
        members = [Member(*row) for row in zip(names, *columns, strict=True)]
    except Exception as error:  # numpy raises many kinds, among them SyntaxError and MemoryError
        raise ValueError(f"it is no table of name, offset, size and crc32: {error}") from error
    if any(type(value) is not int or value < 0 for column in columns for value in column):
        raise ValueError("offset, size and crc32 must be whole numbers from 0")
    return members


def _problems(row: Row, name: str, member: Member, size: int) -> Iterator[str]:
    """What is wrong with a row's next member, in a file of `size` bytes."""
    if name in row.members:
        yield f"has a duplicated member {name!r}"
    if member.size == 0:
        yield f"has an empty member {name!r} (zero bytes)"
    if member.offset + member.size > size:
        yield f"is truncated inside {name!r}; the file ends at byte {size}"


@dataclass(frozen=True)
class _Rows:
    """The rows of a shard at about 150 bytes each, a fifth of what a `Row` takes, so that every shard's may be kept."""

    keys: list[str]
    names: list[tuple[str, ...]]  # of each row's members; rows that are alike share one tuple
    starts: np.ndarray  # each row's first span
    spans: np.ndarray  # offset and size in bytes of every member, row by row
    sums: np.ndarray  # CRC-32 of every member; empty where there is no index
    problems: dict[int, list[str]]  # of the rows that have any

    @classmethod
    def pack(cls, rows: list[Row]) -> "_Rows":
        names = [tuple(row.members) for row in rows]
        shared = {found: found for found in names}
        return cls(
            [row.key for row in rows],
            [shared[found] for found in names],
            np.cumsum([0] + [len(found) for found in names], dtype=np.int64),
            np.array([span for row in rows for span in row.members.values()], dtype=np.int64).reshape(-1, 2),
            np.array([row.sums[name] for row in rows for name in row.members if row.sums], dtype=np.uint32),
            {number: row.problems for number, row in enumerate(rows) if row.problems},
        )

    def __getitem__(self, number: int) -> Row:
        own = slice(self.starts[number], self.starts[number + 1])
        members = dict(zip(self.names[number], map(tuple, self.spans[own].tolist()), strict=True))
        sums = dict(zip(self.names[number], self.sums[own].tolist(), strict=bool(len(self.sums))))
        return Row(self.keys[number], members, self.problems.get(number, []), sums)


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


@dataclass(frozen=True)
class Shards:
    """An opened folder of shards, or some of its pairs: any of them by its index, its position among them."""

    folder: Path
    manifest: Manifest  # of the pairs that are taken; `shards` in it are the whole ones
    places: np.ndarray | None = field(default=None, compare=False, repr=False)  # of the pairs taken, rising; None: all

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Reads the manifest; shards are opened when they are first needed.

        Raises:
            ShardError: there is no manifest, or it is not one.
        """
        return cls(Path(folder), read_manifest(Path(folder)))

    def __len__(self) -> int:
        return self.manifest.pairs

    @cached_property
    def starts(self) -> np.ndarray:
        """Index of each shard's first pair, and at the end the number of pairs."""
        return self._starts if self.places is None else np.searchsorted(self.places, self._starts)

    @cached_property
    def _starts(self) -> np.ndarray:
        """Place of each shard's first pair in the folder."""
        return np.cumsum([0] + [shard.pairs for shard in self.manifest.shards])

    @cached_property
    def _rows(self) -> dict[int, _Rows]:
        return {}  # of the shards indexed so far

    @cached_property
    def _refused(self) -> dict[int, str]:
        return {}  # of the shards that cannot be indexed: why

    @cached_property
    def _compared(self) -> dict[int, np.ndarray]:
        return {}  # of each shard, whether a row's members have been compared with their checksums

    @cached_property
    def _most_open(self) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return MOST_OPEN if limit == resource.RLIM_INFINITY else min(MOST_OPEN, max(1, limit // OPEN_SHARE))

    @cached_property
    def _descriptors(self) -> dict[int, int]:
        held: dict[int, int] = {}  # of the shards held open, the one used last at the end
        weakref.finalize(self, _close, held)
        return held

    def __getstate__(self) -> dict[str, object]:
        # file handles stay in their process
        return {"folder": self.folder, "manifest": self.manifest, "places": self.places}

    def locate(self, index: int) -> tuple[Path, Row]:
        """Shard and row of a pair.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        number, row = self._where(index)
        if number not in self._rows:
            self._index(number)
        return self._path(number), self._rows[number][row]

    def read(self, index: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
        """Key and members (such as "rgb.jpg") of a pair.

        Raises:
            ShardError: the shard as a whole is missing or broken, or the pair is, or lacks a member; or the bytes are
                not those that were packed.
        """
        key, descriptor, spans = self.spans(index, names)
        payloads = [self.read_bytes(index, descriptor, size, offset) for offset, size in spans]
        path, row = self.locate(index)
        for name, payload in zip(names, payloads, strict=True):
            if len(payload) != row.members[name][1]:
                raise ShardError(f"{path}: pair {key!r}, {name}: the file ends inside it")
            if row.sums and zlib.crc32(payload) != row.sums[name]:
                raise ShardError(f"{path}: pair {key!r}, {name}: its bytes changed since they were packed "
                                 f"(its CRC-32 is not the index's); {self._advice}")  # fmt: skip
        return key, dict(zip(names, payloads, strict=True))

    def compare_once(self, index: int, names: list[str]) -> None:
        """Reads members and compares them with their checksums where this process has not; then pieces may be read.

        Raises:
            ShardError: see `read`.
        """
        number, row = self._where(index)
        done = self._compared.setdefault(number, np.zeros(self.manifest.shards[number].pairs, dtype=bool))
        if not done[row]:
            self.read(index, names)
            done[row] = True

    def read_bytes(self, index: int, descriptor: int, size: int, offset: int) -> bytes:
        """Some bytes of a pair's shard, which `spans` opened.

        Raises:
            ShardError: the system does not give them.
        """
        try:
            return os.pread(descriptor, size, offset)
        except OSError as error:
            raise ShardError(f"{self._path(self._where(index)[0])} cannot be read: {error.strerror}") from error

    def spans(self, index: int, names: list[str]) -> tuple[str, int, list[tuple[int, int]]]:
        """Key of a pair, its shard as an open file, and where in that its members lie: offset and size in bytes.

        Raises:
            ShardError: see `read`.
        """
        path, row = self.locate(index)
        if row.problems:
            raise ShardError(f"{path}: pair {row.key!r} {row.problems[0]}")
        for name in names:
            if name not in row.members:
                raise ShardError(f"{path}: pair {row.key!r} has no {name!r}; it has {', '.join(row.members)}")
        return row.key, self._descriptor(self._where(index)[0]), [row.members[name] for name in names]

    def lacks(self, index: int, member: str) -> bool:
        """Whether a pair comes without a member that others have, as its manifest says of some.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        return member.partition(".")[0] in self.manifest.lacking and member not in self.locate(index)[1].members

    def facts(self, index: int) -> dict[str, Any]:
        """The JSON member of a pair: label, group, and whatever the source knew."""
        return self.parse(index, self.read(index, ["json"])[1]["json"])

    def parse(self, index: int, payload: bytes) -> dict[str, Any]:
        """A JSON member that has been read, by `parse_facts`.

        Raises:
            ShardError: it is not readable, or has no label of the manifest's classes.
        """
        try:
            return parse_facts(payload, len(self.manifest.classes))
        except ValueError as error:
            path, row = self.locate(index)
            raise ShardError(f"{path}: pair {row.key!r}: {error}") from error

    def labels(self) -> Tensor:
        """Class of every pair in order, -1 where there is none; where none has any, nothing is read."""
        if not any(self.manifest.labels.values()):
            return torch.full((len(self),), -1)
        return torch.tensor([self.facts(index)["label"] for index in range(len(self))], dtype=torch.int64)

    def member(self, name: str) -> str:
        """The member of a field: "depth" -> "depth.png".

        Raises:
            ShardError: the shards have no such field.
        """
        if name not in self.manifest.fields:
            raise ShardError(f"{self.folder} has no field {name!r}; it has {', '.join(self.manifest.fields)}")
        return f"{name}.{self.manifest.fields[name].extension}"

    @property
    def _advice(self) -> str:
        return f"see crossmodal shards --check {self.folder}, then copy or pack the shards again"

    def _where(self, index: int) -> tuple[int, int]:
        """Number of a pair's shard, and its row there."""
        place = index if self.places is None else int(self.places[index])
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return number, place - int(self._starts[number])

    def _path(self, number: int) -> Path:
        return self.folder / self.manifest.shards[number].file

    def _descriptor(self, number: int) -> int:
        found = self._descriptors.pop(number, None)
        if found is None:
            found = self._open(number)
        self._descriptors[number] = found
        if len(self._descriptors) > self._most_open:
            self._close_oldest()
        return found

    def _open(self, number: int) -> int:
        while True:
            try:
                return os.open(self._path(number), os.O_RDONLY)
            except OSError as error:
                if error.errno != errno.EMFILE or not self._descriptors:
                    raise ShardError(f"{self._path(number)} cannot be opened: {error.strerror}") from error
                self._close_oldest()

    def _close_oldest(self) -> None:
        os.close(self._descriptors.pop(next(iter(self._descriptors))))

    def _index(self, number: int) -> None:
        """Scans a shard, once: rows and refusals are kept."""
        if number not in self._refused:
            rows, refusal = self._scan(number)
            if refusal is None:
                self._rows[number] = _Rows.pack(rows)
                return
            self._refused[number] = refusal
        raise ShardError(self._refused[number])

    def _scan(self, number: int) -> tuple[list[Row], str | None]:
        """The rows of a shard, and why none of them can be trusted, if so."""
        path, expected = self._path(number), self.manifest.shards[number]
        try:
            rows, problems = self._listed(path, expected)
        except OSError as error:
            return [], f"{path} cannot be read: {error.strerror}"
        except ValueError as error:
            return [], str(error)
        if problems:
            more = f" (and {len(problems) - 1} more; see crossmodal shards --check {self.folder})"
            return rows, problems[0] + (more if problems[1:] else "")
        if len(rows) != expected.pairs:
            first = next((f"; pair {row.key!r} {row.problems[0]}" for row in rows if row.problems), "")
            return rows, f"{path} must hold {expected.pairs} pairs by its manifest, got {len(rows)}{first}"
        return rows, None

    def _listed(self, path: Path, expected: Shard) -> tuple[list[Row], list[str]]:
        """The rows of a shard by its index; where there is none, from its headers, once its sha256 is found right.

        Raises:
            ValueError: the index or the shard is not what the manifest says.
        """
        if not path.is_file():
            raise ValueError(f"{path} is missing, though {self.folder / MANIFEST} lists it")
        if (size := path.stat().st_size) != expected.bytes:
            raise ValueError(f"{path} must have {expected.bytes} bytes by its manifest, got {size}; {self._advice}")
        index = index_path(path)
        if not expected.index or not index.is_file():
            if sha256_of(path) != expected.sha256:
                raise ValueError(f"{path}: its bytes changed since it was written (its sha256 is not the manifest's); "
                                 f"{self._advice}")  # fmt: skip
            return scan(path)
        payload = index.read_bytes()
        if hashlib.sha256(payload).hexdigest() != expected.index:
            raise ValueError(f"{index} is not the index that was written (sha256 differs from the manifest's); "
                             f"{self._advice}")  # fmt: skip
        try:
            return _rows_of(path, _read_index(payload), expected.bytes)
        except ValueError as error:
            raise ValueError(f"{index}: {error}; {self._advice}") from error
