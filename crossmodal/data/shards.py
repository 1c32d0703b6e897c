"""Paired WebDataset shards and their manifest: open, index, read any pair.

A shard is a tar in WebDataset's layout: ``000123.rgb.jpg``, ``000123.depth.png``, ``000123.json``, the members of a
pair side by side. A folder of shards has a `MANIFEST`, which is written last, so a folder without one is unfinished.
Beside every tar is an index with the name, offset, size and CRC-32 of every member, so that any pair is one read away
and changed bytes are refused. WebDataset can read the tars as a stream.
"""

import errno
import hashlib
import os
import resource
import weakref
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmodal.data.index import Row, Rows, index_path, read_index, rows_of, scan
from crossmodal.data.manifest import MANIFEST, Manifest, Shard, ShardError, parse_facts, read_manifest, sha256_of

OPEN_SHARE = 8  # each folder keeps up to 1 / OPEN_SHARE of the process's file limit open
MOST_OPEN = 4096  # maximum, also if the process may open any number


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


@dataclass(frozen=True)
class Shards:
    """An opened folder of shards, or a subset of its pairs, with random access by index."""

    folder: Path
    manifest: Manifest  # of the selected pairs; its `shards` are the whole shards
    places: np.ndarray | None = field(default=None, compare=False, repr=False)  # ascending; None: all

    @classmethod
    def open(cls, folder: str | Path) -> "Shards":
        """Reads the manifest; shards are opened when they are first needed.

        Raises:
            ShardError: there is no manifest, or it is invalid.
        """
        return cls(Path(folder), read_manifest(Path(folder)))

    def __len__(self) -> int:
        return self.manifest.pairs

    @cached_property
    def starts(self) -> np.ndarray:
        """The index of each shard's first pair; the last element is the number of pairs."""
        return self._starts if self.places is None else np.searchsorted(self.places, self._starts)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The position of each shard's first pair in the folder."""
        return np.cumsum([0] + [shard.pairs for shard in self.manifest.shards])

    @cached_property
    def _rows(self) -> dict[int, Rows]:
        return {}  # of the shards indexed so far

    @cached_property
    def _refused(self) -> dict[int, str]:
        return {}  # of the shards that cannot be indexed, with the reason

    @cached_property
    def _compared(self) -> dict[int, np.ndarray]:
        return {}  # shard -> true for rows whose members have been compared with their checksums

    @cached_property
    def _most_open(self) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return MOST_OPEN if limit == resource.RLIM_INFINITY else min(MOST_OPEN, max(1, limit // OPEN_SHARE))

    @cached_property
    def _descriptors(self) -> dict[int, int]:
        descriptors: dict[int, int] = {}  # of the open shards, the most recently used last
        weakref.finalize(self, _close, descriptors)
        return descriptors

    def __getstate__(self) -> dict[str, object]:
        # file descriptors are not valid in another process
        return {"folder": self.folder, "manifest": self.manifest, "places": self.places}

    def locate(self, index: int) -> tuple[Path, Row]:
        """The shard and row of a pair.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        number, row = self._where(index)
        if number not in self._rows:
            self._index(number)
        return self._path(number), self._rows[number][row]

    def read(self, index: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
        """The key and members (such as "rgb.jpg") of a pair.

        Raises:
            ShardError: the whole shard or the pair is missing or broken, the pair lacks a member, or bytes have changed
                since they were packed.
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
        """Compares members with their checksums, once per process, so that pieces of them may be read.

        Raises:
            ShardError: see `read`.
        """
        number, row = self._where(index)
        done = self._compared.setdefault(number, np.zeros(self.manifest.shards[number].pairs, dtype=bool))
        if not done[row]:
            self.read(index, names)
            done[row] = True

    def read_bytes(self, index: int, descriptor: int, size: int, offset: int) -> bytes:
        """Bytes of a pair's shard, which `spans` opened.

        Raises:
            ShardError: they cannot be read.
        """
        try:
            return os.pread(descriptor, size, offset)
        except OSError as error:
            raise ShardError(f"{self._path(self._where(index)[0])} cannot be read: {error.strerror}") from error

    def spans(self, index: int, names: list[str]) -> tuple[str, int, list[tuple[int, int]]]:
        """The key of a pair, the descriptor of its shard, and the offset and size in bytes of its members.

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
        """True if a pair lacks a member, which the manifest must allow.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        return member.partition(".")[0] in self.manifest.lacking and member not in self.locate(index)[1].members

    def facts(self, index: int) -> dict[str, Any]:
        """The JSON member of a pair: label, group, and further values of the source."""
        return self.parse(index, self.read(index, ["json"])[1]["json"])

    def parse(self, index: int, payload: bytes) -> dict[str, Any]:
        """The facts in the bytes of a pair's JSON member, see `parse_facts`.

        Raises:
            ShardError: it is not valid, or its label is not one of the manifest's classes.
        """
        try:
            return parse_facts(payload, len(self.manifest.classes))
        except ValueError as error:
            path, row = self.locate(index)
            raise ShardError(f"{path}: pair {row.key!r}: {error}") from error

    def labels(self) -> Tensor:
        """The class of every pair in order, -1: unlabelled; if no pair has a label, nothing is read."""
        if not any(self.manifest.labels.values()):
            return torch.full((len(self),), -1)
        return torch.tensor([self.facts(index)["label"] for index in range(len(self))], dtype=torch.int64)

    def groups(self) -> list[str]:
        """The group of every pair in order, empty: no group; if no pair has one, nothing is read."""
        if not self.manifest.groups:
            return [""] * len(self)
        return [str(self.facts(index).get("group") or "") for index in range(len(self))]

    def member(self, name: str) -> str:
        """The member name of a field: "depth" -> "depth.png".

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
        """The number of a pair's shard, and its row there."""
        place = index if self.places is None else int(self.places[index])
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        return number, place - int(self._starts[number])

    def _path(self, number: int) -> Path:
        return self.folder / self.manifest.shards[number].file

    def _descriptor(self, number: int) -> int:
        descriptor = self._descriptors.pop(number, None)
        if descriptor is None:
            descriptor = self._open(number)
        self._descriptors[number] = descriptor
        if len(self._descriptors) > self._most_open:
            self._close_oldest()
        return descriptor

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
        """Scans a shard once, and remembers its rows or the reason why it is refused."""
        if number not in self._refused:
            rows, refusal = self._scan(number)
            if refusal is None:
                self._rows[number] = Rows.pack(rows)
                return
            self._refused[number] = refusal
        raise ShardError(self._refused[number])

    def _scan(self, number: int) -> tuple[list[Row], str | None]:
        """The rows of a shard, and the reason why all of them are refused, if any."""
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
        """The rows of a shard from its index, or without one from its headers, after a check of its sha256.

        Raises:
            ValueError: the index or the shard differs from the manifest.
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
            return rows_of(path, read_index(payload), expected.bytes)
        except ValueError as error:
            raise ValueError(f"{index}: {error}; {self._advice}") from error
