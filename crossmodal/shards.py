"""Paired WebDataset shards and their manifest: open, index, read any pair.

A shard is a tar in WebDataset's layout: ``000123.rgb.jpg``, ``000123.depth.png``, ``000123.json``, the members of a
pair side by side. A folder of shards holds `MANIFEST`, written last, so that a folder without one is known to be
unfinished. Shards are read by offset, from an index of their headers that is made once and kept, so that any pair is
one read away; WebDataset itself reads the same files as a stream.
"""

import hashlib
import json
import os
import tarfile
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = "crossmodal-shards/1"
DESCRIPTORS = 64  # shards of a folder held open at once; a process may often open no more than 1024 files


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
        return _manifest(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path} is not a manifest: {error}") from error


def _manifest(content: dict[str, Any]) -> Manifest:
    if content.get("format") != FORMAT:
        raise ValueError(f"format must be {FORMAT!r}, got {content.get('format')!r}")
    fields = {name: Field(**value) for name, value in content.pop("fields").items()}
    shards = [Shard(**value) for value in content.pop("shards")]
    manifest = Manifest(fields=fields, shards=shards, **content)
    if manifest.pairs != (total := sum(shard.pairs for shard in shards)):
        raise ValueError(f"pairs must be the sum of its shards', {total}, got {manifest.pairs!r}")
    return manifest


def parse_facts(payload: bytes, classes: int) -> dict[str, Any]:
    """A JSON member: label (-1 where there is none), group, and whatever the source knew.

    Raises:
        ValueError: it is no object with a whole label, or the label is none of the classes (where there are any).
    """
    try:
        facts = json.loads(payload)
        label = facts["label"]
    except (ValueError, TypeError, KeyError):
        label = None
    # a bool is an int to Python, and 1.0 or "1" to int()
    if type(label) is not int or label < -1 or (classes and label >= classes):
        upper = f"to {classes - 1}" if classes else "up"
        raise ValueError(f"json must be an object with a whole 'label' from -1 {upper}, got {payload[:80]!r}")
    return facts


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def scan(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a shard from its headers alone, and what is wrong with the shard as a whole, each in one sentence."""
    rows: list[Row] = []
    problems: list[str] = []
    seen: set[str] = set()
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, _, name = Path(member.name).name.partition(".")
                if not rows or rows[-1].key != key:
                    if key in seen:
                        problems.append(
                            f"{path}: pair {key!r} is interleaved: {name!r} lies apart from its other members"
                        )
                    seen.add(key)
                    rows.append(Row(key, {}))
                rows[-1].problems.extend(_problems(rows[-1], name, member, size))
                rows[-1].members[name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        if not rows:
            problems.append(f"{path}: not a readable tar ({error})")
        elif not rows[-1].problems:
            rows[-1].problems.append(f"is cut short ({error})")
    return rows, problems


def _problems(row: Row, name: str, member: tarfile.TarInfo, size: int) -> Iterator[str]:
    """What is wrong with a row's next member, in a file of `size` bytes."""
    if name in row.members:
        yield f"has a duplicated member {name!r}"
    if member.size == 0:
        yield f"has an empty member {name!r} (zero bytes)"
    if member.offset_data + member.size > size:
        yield f"is truncated inside {name!r}; the file ends at byte {size}"


@dataclass(frozen=True)
class _Rows:
    """The rows of a shard at about 150 bytes each, a fifth of what a `Row` takes, so that every shard's may be kept."""

    keys: list[str]
    names: list[tuple[str, ...]]  # of each row's members; rows that are alike share one tuple
    starts: np.ndarray  # each row's first span
    spans: np.ndarray  # offset and size in bytes of every member, row by row
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
            {number: row.problems for number, row in enumerate(rows) if row.problems},
        )

    def __getitem__(self, number: int) -> Row:
        spans = self.spans[self.starts[number] : self.starts[number + 1]].tolist()
        members = {name: (offset, size) for name, (offset, size) in zip(self.names[number], spans, strict=True)}
        return Row(self.keys[number], members, self.problems.get(number, []))


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
            ShardError: the shard as a whole is missing or broken, or the pair is, or lacks a member.
        """
        key, descriptor, spans = self.spans(index, names)
        payloads = [self.read_bytes(index, descriptor, size, offset) for offset, size in spans]
        return key, dict(zip(names, payloads, strict=True))

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
            try:
                found = os.open(self._path(number), os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"{self._path(number)} cannot be opened: {error.strerror}") from error
        self._descriptors[number] = found
        if len(self._descriptors) > DESCRIPTORS:
            os.close(self._descriptors.pop(next(iter(self._descriptors))))
        return found

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
        if not path.is_file():
            return [], f"{path} is missing, though {self.folder / MANIFEST} lists it"
        try:
            rows, problems = scan(path)
        except OSError as error:
            return [], f"{path} cannot be read: {error.strerror}"
        if problems:
            more = f" (and {len(problems) - 1} more; see crossmodal shards --check {self.folder})"
            return rows, problems[0] + (more if problems[1:] else "")
        if len(rows) != expected.pairs:
            first = next((f"; pair {row.key!r} {row.problems[0]}" for row in rows if row.problems), "")
            return rows, f"{path} must hold {expected.pairs} pairs by its manifest, got {len(rows)}{first}"
        return rows, None
