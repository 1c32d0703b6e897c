"""Paired WebDataset shards and their manifest: open, index, read any pair.

A shard is a tar in WebDataset's layout: ``000123.rgb.jpg``, ``000123.depth.png``, ``000123.json``, the members of a
pair side by side. A folder of shards holds `MANIFEST`, written last, so that a folder without one is known to be
unfinished. Shards are read by offset, from an index of their headers, so that any pair is one read away; WebDataset
itself reads the same files as a stream.
"""

import hashlib
import json
import os
import tarfile
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = "crossmodal-shards/1"


class ShardError(ValueError):
    """A shard or manifest that is not what it should be; the message names shard, key and field."""


@dataclass(frozen=True)
class Field:
    """What a member of every pair is."""

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


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        ShardError: there is none, or it is not one.
    """
    path = folder / MANIFEST
    if not path.is_file():
        there = "the folder exists but its shards were not finished" if folder.is_dir() else "there is no such folder"
        raise ShardError(f"{path} is missing ({there}); make shards with: crossmodal shards CONFIG")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ShardError(f"{path}: format must be {FORMAT!r}, got {content.get('format')!r}")
        fields = {name: Field(**value) for name, value in content.pop("fields").items()}
        shards = [Shard(**value) for value in content.pop("shards")]
        return Manifest(fields=fields, shards=shards, **content)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path} is not a manifest: {error}") from error


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def scan(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a shard from its headers alone, and what is wrong with its layout, each in one sentence."""
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
                if name in rows[-1].members:
                    problems.append(f"{path}: pair {key!r} has a duplicated member {name!r}")
                if member.size == 0:
                    problems.append(f"{path}: pair {key!r} has an empty member {name!r} (zero bytes)")
                if member.offset_data + member.size > size:
                    problems.append(f"{path}: truncated inside {member.name!r}; the file ends at byte {size}")
                rows[-1].members[name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        problems.append(f"{path}: not a readable tar, or truncated ({error})")
    return rows, problems


@dataclass(frozen=True)
class Shards:
    """An opened folder of shards: any pair by its index, its position in the manifest."""

    folder: Path
    manifest: Manifest

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
        """Index of each shard's first pair."""
        return np.cumsum([0] + [shard.pairs for shard in self.manifest.shards])

    @cached_property
    def _open(self) -> dict[int, tuple[int, list[Row]]]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "manifest": self.manifest}  # file handles stay in their process

    def locate(self, index: int) -> tuple[Path, Row, int]:
        """Shard, row and file descriptor of a pair."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        if number not in self._open:
            self._open[number] = self._index(number)
            if len(self._open) > 64:  # descriptors are few; the oldest shard goes
                os.close(self._open.pop(next(iter(self._open)))[0])
        descriptor, rows = self._open[number]
        return self._path(number), rows[index - int(self.starts[number])], descriptor

    def read(self, index: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
        """Key and members (such as "rgb.jpg") of a pair.

        Raises:
            ShardError: the shard is missing or broken, or the pair lacks a member.
        """
        path, row, descriptor = self.locate(index)
        payloads = {}
        for name in names:
            if name not in row.members:
                raise ShardError(f"{path}: pair {row.key!r} has no {name!r}; it has {', '.join(row.members)}")
            offset, size = row.members[name]
            payloads[name] = os.pread(descriptor, size, offset)
        return row.key, payloads

    def facts(self, index: int) -> dict[str, Any]:
        """The JSON member of a pair: label, group, and whatever the source knew."""
        return self.parse(index, self.read(index, ["json"])[1]["json"])

    def parse(self, index: int, payload: bytes) -> dict[str, Any]:
        """A JSON member that has been read.

        Raises:
            ShardError: it is not readable, or has no label.
        """
        try:
            facts = json.loads(payload)
            int(facts["label"])
        except (ValueError, TypeError, KeyError) as error:
            path, row, _ = self.locate(index)
            raise ShardError(f"{path}: pair {row.key!r}: json must be an object with a whole 'label', "
                             f"got {payload[:80]!r}") from error  # fmt: skip
        return facts

    def labels(self) -> Tensor:
        """Class of every pair in order, -1 where there is none."""
        return torch.tensor([self.facts(index)["label"] for index in range(len(self))], dtype=torch.int64)

    def member(self, name: str) -> str:
        """The member of a field: "depth" -> "depth.png".

        Raises:
            ShardError: the shards have no such field.
        """
        if name not in self.manifest.fields:
            raise ShardError(f"{self.folder} has no field {name!r}; it has {', '.join(self.manifest.fields)}")
        return f"{name}.{self.manifest.fields[name].extension}"

    def _path(self, number: int) -> Path:
        return self.folder / self.manifest.shards[number].file

    def _index(self, number: int) -> tuple[int, list[Row]]:
        path, expected = self._path(number), self.manifest.shards[number]
        if not path.is_file():
            raise ShardError(f"{path} is missing, though {self.folder / MANIFEST} lists it")
        rows, problems = scan(path)
        if problems:
            more = (
                f" (and {len(problems) - 1} more; see crossmodal shards --check {self.folder})" if problems[1:] else ""
            )
            raise ShardError(problems[0] + more)
        if len(rows) != expected.pairs:
            raise ShardError(f"{path} must hold {expected.pairs} pairs by its manifest, got {len(rows)}")
        return os.open(path, os.O_RDONLY), rows
