"""Paired WebDataset shards and their manifest: open, index, read any pair.

A shard is a tar in WebDataset's layout: ``000123.rgb.jpg``, ``000123.depth.png``, ``000123.json``, the members of a
pair side by side. A folder of shards has a `MANIFEST`, which is written last, so a folder without one is unfinished.
Beside every tar is an index with the key, label and group of every pair and the offset, size and CRC-32 of every
member, so that any pair is one read away and changed bytes are refused. WebDataset can read the tars as a stream.
"""

import contextlib
import errno
import hashlib
import os
import resource
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmodal.data.index import UNKNOWN, Row, Rows, index_path, read_rows, scan
from crossmodal.data.manifest import (
    MANIFEST,
    Manifest,
    Shard,
    ShardError,
    name_group,
    parse_facts,
    read_manifest,
    sha256_of,
)
from crossmodal.data.remote import RemoteShards
from crossmodal.stores.errors import StoreError
from crossmodal.stores.paths import AnyPath, RemotePath, to_path

OPEN_SHARE = 8  # each folder keeps up to 1 / OPEN_SHARE of the process's file limit open
MOST_OPEN = 4096  # maximum, also if the process may open any number
INDEXES = 64  # of a store that are read at the same time
INDEX_BYTES = 1 << 26  # of the indexes that each folder keeps in memory, about 600,000 pairs


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


class _Recent:
    """The rows of the shards that were used last, in at most `INDEX_BYTES`, but at least those of one shard."""

    def __init__(self) -> None:
        self.rows, self.bytes = dict[int, Rows](), 0

    def get(self, number: int) -> Rows | None:
        if (rows := self.rows.pop(number, None)) is not None:
            self.rows[number] = rows  # now the last one
        return rows

    def keep(self, number: int, rows: Rows) -> Rows:
        self._drop(number)
        self.rows[number] = rows
        self.bytes += rows.table.nbytes
        while self.bytes > INDEX_BYTES and len(self.rows) > 1:
            self._drop(next(iter(self.rows)))
        return rows

    def _drop(self, number: int) -> None:
        if (rows := self.rows.pop(number, None)) is not None:
            self.bytes -= rows.table.nbytes


@dataclass(frozen=True)
class Shards:
    """An opened folder of shards, or a subset of its pairs, with random access by index."""

    folder: AnyPath
    manifest: Manifest  # of the selected pairs; its `shards` are the whole shards
    places: np.ndarray | None = field(default=None, compare=False, repr=False)  # ascending; None: all

    @classmethod
    def open(cls, folder: str | AnyPath) -> "Shards":
        """Reads the manifest; shards are opened when they are first needed.

        Args:
            folder: a path, or the URL of a folder in a store, such as s3://bucket/pairs/train.

        Raises:
            ShardError: there is no manifest, or it is invalid.
            StoreError: the store cannot be read; so too by the methods that read shards.
        """
        try:
            path = to_path(folder)
        except ValueError as error:
            raise ShardError(str(error)) from error
        return cls(path, read_manifest(path))

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
    def _rows(self) -> "_Recent":
        return _Recent()

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

    def locate(self, index: int) -> tuple[AnyPath, Row]:
        """The shard and row of a pair.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        number, row = self._where(index)
        return self._path(number), self._rows_of(number)[row]

    def read(self, index: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
        """The key and members (such as "rgb.jpg") of a pair.

        Raises:
            ShardError: the whole shard or the pair is missing or broken, the pair lacks a member, or bytes have changed
                since they were packed.
        """
        key, spans = self.spans(index, names)
        payloads = self.read_spans(index, spans)
        path, row = self.locate(index)
        sums = [zlib.crc32(payload) for payload in payloads] if row.sums else []
        if self._remote is not None and sums != [row.sums[name] for name in names if row.sums]:
            payloads = self._remote.read_again(self._where(index)[0], spans)
            sums = [zlib.crc32(payload) for payload in payloads]
        for place, (name, payload) in enumerate(zip(names, payloads, strict=True)):
            if len(payload) != row.members[name][1]:
                raise ShardError(f"{path}: pair {key!r}, {name}: the file ends inside it")
            if sums and sums[place] != row.sums[name]:
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

    def read_spans(self, index: int, spans: list[tuple[int, int]]) -> list[bytes]:
        """The bytes of a pair's shard at each (offset, size).

        Raises:
            ShardError: they cannot be read.
        """
        number = self._where(index)[0]
        if self._remote is not None:
            return self._remote.read(number, spans)
        descriptor = self._descriptor(number)
        try:
            return [os.pread(descriptor, size, offset) for offset, size in spans]
        except OSError as error:
            raise ShardError(f"{self._path(number)} cannot be read: {error.strerror}") from error

    def read_ahead(self, indices: Sequence[int], names: list[str], later: Iterable[int] = ()) -> None:
        """Reads pairs of a store at the same time, for the calls of `read` that follow; nothing for local shards.

        Pairs that cannot be read are left out: `read` reports them.

        Args:
            indices: of the pairs.
            names: of their members beside `json`, which is read where the index has no labels; those that a pair lacks
                are left out.
            later: pairs whose shards are soon needed, to be fetched into the cache if there is one.
        """
        if self._remote is None:
            return
        wanted: dict[int, list[tuple[int, int]]] = {}
        missing = self._remote.missing(self._where(index)[0] for index in indices)
        for index in indices if missing else ():
            number = self._where(index)[0]
            if number not in missing:
                continue
            with contextlib.suppress(ShardError):
                row = self.locate(index)[1]
                read = names if row.label is not None or "json" in names else [*names, "json"]
                wanted.setdefault(number, []).extend(row.members[name] for name in read if name in row.members)
        self._remote.read_ahead(wanted, self._remote.missing(self._where(index)[0] for index in later))

    def spans(self, index: int, names: list[str]) -> tuple[str, list[tuple[int, int]]]:
        """The key of a pair, and the offset and size in bytes of its members.

        Raises:
            ShardError: see `read`.
        """
        path, row = self.locate(index)
        if row.problems:
            raise ShardError(f"{path}: pair {row.key!r} {row.problems[0]}")
        for name in names:
            if name not in row.members:
                raise ShardError(f"{path}: pair {row.key!r} has no {name!r}; it has {', '.join(row.members)}")
        return row.key, [row.members[name] for name in names]

    def lacks(self, index: int, member: str) -> bool:
        """True if a pair lacks a member, which the manifest must allow.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        return member.partition(".")[0] in self.manifest.lacking and member not in self.locate(index)[1].members

    def facts(self, index: int) -> dict[str, Any]:
        """What the source recorded of a pair: label, group, and the further values of its JSON member."""
        row = self.locate(index)[1]
        if "json" not in row.members and row.label is not None:
            return {"label": row.label, "group": row.group}
        return self.parse(index, self.read(index, ["json"])[1]["json"], row.label)

    def parse(self, index: int, payload: bytes, label: int | None = None) -> dict[str, Any]:
        """The facts in the bytes of a pair's JSON member, see `parse_facts`.

        Raises:
            ShardError: it is not valid, or its label is not one of the manifest's classes.
        """
        try:
            return parse_facts(payload, len(self.manifest.classes), label)
        except ValueError as error:
            path, row = self.locate(index)
            raise ShardError(f"{path}: pair {row.key!r}: {error}") from error

    def labels(self, *, strict: bool = True) -> Tensor:
        """The class of every pair in order, -1: unlabelled; if no pair has a label, nothing is read.

        With `strict` off, pairs that cannot be read are unlabelled.

        Raises:
            ShardError: a pair cannot be read.
        """
        labels = np.full(len(self), -1, dtype=np.int64)
        if any(self.manifest.labels.values()):
            for chosen, rows in self._facts(strict):
                labels[chosen] = np.maximum(rows["label"], -1)
        return torch.from_numpy(labels)

    def groups(self, *, strict: bool = True) -> list[str]:
        """The group of every pair in order, empty: no group; if no pair has one, nothing is read.

        With `strict` off, pairs that cannot be read have no group.

        Raises:
            ShardError: a pair cannot be read.
        """
        if not self.manifest.has_groups:
            return [""] * len(self)
        groups, names = [""] * len(self), dict[bytes, str]()
        for chosen, rows in self._facts(strict):
            groups[chosen] = [names.setdefault(name, name.decode()) for name in rows["group"].tolist()]
        return groups

    def without(self, member: str, *, strict: bool = True) -> np.ndarray:
        """True for every pair that lacks a member, in order.

        With `strict` off, pairs that cannot be read lack nothing.

        Raises:
            ShardError: a shard is missing or broken.
        """
        without = np.zeros(len(self), dtype=bool)
        for chosen, number, rows in self._selected():
            try:
                without[chosen] = self._rows_of(number).lacks(member)[rows]
            except ShardError:
                if strict:
                    raise
        return without

    def _selected(self) -> Iterator[tuple[slice, int, Any]]:
        """For each shard with selected pairs: their positions among them, the shard's number, and their rows there."""
        for number, (first, last) in enumerate(pairwise(self.starts.tolist())):
            if self._remote is not None and number % INDEXES == 0:
                self._remote.read_indexes(range(number, min(number + INDEXES, len(self.manifest.shards))))
            if first < last:
                rows = slice(None) if self.places is None else self.places[first:last] - self._starts[number]
                yield slice(first, last), number, rows

    def _facts(self, strict: bool) -> Iterator[tuple[slice, np.ndarray]]:
        """The positions and the rows of the selected pairs, shard by shard, with label and group."""
        for chosen, number, rows in self._selected():
            try:
                table = self._with_facts(number).table[rows]
            except ShardError:
                if strict:
                    raise
                continue
            if strict:
                for row in np.flatnonzero(table["label"] == UNKNOWN)[:1]:
                    self.facts(chosen.start + int(row))  # raises the error of the pair
            yield chosen, table

    def _with_facts(self, number: int) -> Rows:
        """The rows of a shard with label and group: from its index, or without one from all JSON members."""
        rows = self._rows_of(number)
        if not rows.has_facts:
            whole = self if self.places is None else Shards(self.folder, self.manifest)
            start, facts = int(self._starts[number]), list[tuple[int, str]]()
            for index in range(start, start + len(rows)):
                try:
                    found = Shards.facts(whole, index)
                    facts.append((found["label"], name_group(found.get("group"))))
                except ShardError:
                    facts.append((UNKNOWN, ""))
            rows = self._rows.keep(number, rows.with_facts(facts))
        return rows

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

    def _path(self, number: int) -> AnyPath:
        return self.folder / self.manifest.shards[number].file

    @property
    def is_remote(self) -> bool:
        """True if the shards are in a store."""
        return self._remote is not None

    @cached_property
    def _remote(self) -> RemoteShards | None:
        """Reads the shards of a store; None for local ones."""
        if isinstance(self.folder, Path):
            return None
        return RemoteShards(self.folder, self.manifest.shards)

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
                return os.open(str(self._path(number)), os.O_RDONLY)
            except OSError as error:
                if error.errno != errno.EMFILE or not self._descriptors:
                    raise ShardError(f"{self._path(number)} cannot be opened: {error.strerror}") from error
                self._close_oldest()

    def _close_oldest(self) -> None:
        os.close(self._descriptors.pop(next(iter(self._descriptors))))

    def _rows_of(self, number: int) -> Rows:
        """The rows of a shard, from memory or from its index.

        Raises:
            ShardError: the shard as a whole is missing or broken.
        """
        if (rows := self._rows.get(number)) is not None:
            return rows
        if number not in self._refused:
            rows, refusal = self._scan(number)
            if refusal is None:
                return self._rows.keep(number, rows)
            self._refused[number] = refusal
        raise ShardError(self._refused[number])

    def _scan(self, number: int) -> tuple[Rows, str | None]:
        """The rows of a shard, and the reason why all of them are refused, if any."""
        path, expected = self._path(number), self.manifest.shards[number]
        try:
            rows, problems = self._listed(path, expected) if isinstance(path, Path) else self._indexed(path, number)
        except StoreError:
            raise
        except OSError as error:
            return Rows(np.empty(0)), f"{path} cannot be read: {error.strerror}"
        except ValueError as error:
            return Rows(np.empty(0)), str(error)
        if problems:
            more = f" (and {len(problems) - 1} more; see crossmodal shards --check {self.folder})"
            return rows, problems[0] + (more if problems[1:] else "")
        if len(rows) != expected.pairs:
            first = next((f"; pair {rows[number].key!r} {each[0]}" for number, each in rows.problems.items()), "")
            return rows, f"{path} must hold {expected.pairs} pairs by its manifest, got {len(rows)}{first}"
        if rows.has_facts and (classes := len(self.manifest.classes)):
            for row in np.flatnonzero((rows.table["label"] < -1) | (rows.table["label"] >= classes))[:1].tolist():
                return rows, (f"{index_path(path)}: pair {rows[row].key!r} must have a label from -1 to {classes - 1}, "
                              f"got {rows.table['label'][row]}; {self._advice}")  # fmt: skip
        return rows, None

    def _listed(self, path: Path, expected: Shard) -> tuple[Rows, list[str]]:
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
            rows, problems = scan(path)
            return Rows.pack(rows), problems
        return _rows_in(path, index, index.read_bytes(), expected, self._advice)

    def _indexed(self, path: RemotePath, number: int) -> tuple[Rows, list[str]]:
        """The rows of a shard in a store, from its index.

        Raises:
            ValueError: there is no index, or it differs from the manifest.
        """
        assert self._remote is not None
        expected = self.manifest.shards[number]
        if not expected.index:
            raise ValueError(f"{path} has no index, without which the whole object would have to be read; make one in "
                             "a local copy with crossmodal shards --index, and copy it too")  # fmt: skip
        return _rows_in(path, index_path(path), self._remote.index(number), expected, self._advice)


def _rows_in(path: AnyPath, index: AnyPath, payload: bytes, expected: Shard, advice: str) -> tuple[Rows, list[str]]:
    """The rows of a shard in the bytes of its index.

    Raises:
        ValueError: it is not the one of the manifest.
    """
    if hashlib.sha256(payload).hexdigest() != expected.index:
        raise ValueError(f"{index} is not the index that was written (sha256 differs from the manifest's); {advice}")
    try:
        return read_rows(path, payload, expected.bytes)
    except ValueError as error:
        raise ValueError(f"{index}: {error}; {advice}") from error
