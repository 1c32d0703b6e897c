"""Finished shards -> a folder with its manifest, whichever processes packed them.

A mark, `000123.done` beside a finished tar, holds the sums of its pairs. A part that is at its end leaves
`part-003-of-064.done`. The marks of all shards are joined in the order of the shards, so the manifest does not
depend on who packed which.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal.checkpoint import write
from crossmodal.data.index import Rows, index_path, read_rows
from crossmodal.data.inspection import Inspector
from crossmodal.data.manifest import MANIFEST, MOST_GROUPS, Field, Manifest, Shard, ShardError, list_groups, to_json
from crossmodal.data.moments import moments_of
from crossmodal.data.plain import build, parse
from modalities import Modality

MARK = ".done"
PART = re.compile(r"part-(\d+)-of-(\d+)\.done")
HASHED = 1 << 21  # hashes of keys that are compared at once, 16 MB


@dataclass(frozen=True)
class Mark:
    """The contribution of a finished shard to the manifest."""

    origin: str
    shard: Shard
    sums: dict[str, Any]  # by field, see `crossmodal.data.moments`
    uneven: dict[str, int]  # number of pairs whose pictures have different proportions, by a message about the first
    idle: list[list[str]]  # fields and options of stored bytes that changed no signal


@dataclass(frozen=True)
class PartMark:
    """The end of a part."""

    origin: str
    pairs: int  # of the whole source


@dataclass(frozen=True)
class Packing:
    """How the pairs of a split become a folder of shards."""

    folder: Path
    fields: dict[str, Modality]
    classes: tuple[str, ...]
    pairs_per_shard: int = 1000
    partial: bool = False  # pairs may lack fields
    origin: str = ""  # digest of the source and of all that decides the bytes; marks of others do not count

    def tar(self, number: int) -> Path:
        """The path of a shard."""
        return self.folder / f"{number:06d}.tar"

    def mark(self, number: int, shard: Shard, inspector: Inspector) -> None:
        """Marks a shard as finished."""
        sums = {name: each.sums() for name, each in inspector.statistics.items()}
        mark = Mark(self.origin, shard, sums, dict(inspector.uneven), [[*key] for key in inspector.idle])
        write(self.tar(number).with_suffix(MARK), json.dumps(asdict(mark)))

    def is_done(self, number: int) -> bool:
        """True if a shard has a mark, and the files that the mark tells of."""
        return self.read_mark(number) is not None

    def read_mark(self, number: int) -> Mark | None:
        """The mark of a shard; None if it is not finished, or was packed from another source."""
        tar = self.tar(number)
        try:
            mark = build(Mark, parse(tar.with_suffix(MARK).read_bytes()))
            whole = index_path(tar).is_file() and tar.stat().st_size == mark.shard.bytes
        except (OSError, ValueError):
            return None
        return mark if whole and mark.origin == self.origin else None

    def end_part(self, part: int, parts: int, pairs: int) -> None:
        """Marks a part, numbered from 0, as complete."""
        name = f"part-{part + 1:03d}-of-{parts:03d}{MARK}"
        write(self.folder / name, json.dumps(asdict(PartMark(self.origin, pairs))))


def remove_marks(folder: Path) -> None:
    """Removes all marks of a folder."""
    for path in folder.glob(f"*{MARK}"):
        path.unlink()


def join_parts(packing: Packing, *, warn: Callable[[str], None] = lambda message: None) -> Manifest:
    """Writes the manifest of a folder whose shards are all finished. The marks stay until `remove_marks`.

    `warn` gets an option of stored bytes that changes no signal, such as an invalid value that never occurs, and the
    first pair whose pictures have different proportions.

    Raises:
        ShardError: a part is missing or of another source, a shard is not finished, a key occurs twice, or a field has
            several extensions.
    """
    parts, pairs = _parts(packing)
    marks = []
    for number in range(math.ceil(pairs / packing.pairs_per_shard)):
        if (mark := packing.read_mark(number)) is None:
            raise ShardError(f"{packing.tar(number)} is missing or not complete; {_again(number % parts, parts)}")
        marks.append(mark)
    idle = set.intersection(*({(name, option) for name, option in mark.idle} for mark in marks))
    for name, option in [key for key in marks[0].idle if tuple(key) in idle]:
        value = getattr(packing.fields[name], option)
        warn(f"{name}.{option}={value:g} changes nothing in these pairs; is this how their files are stored?")
    uneven = [item for mark in marks for item in mark.uneven.items()]
    if uneven:
        warn(f"{uneven[0][0]}; so do {sum(count for _, count in uneven)} of {pairs} pairs; crop one of the pictures, "
             "or set aligned: false for one of the views in a run")  # fmt: skip
    manifest = describe(packing, [mark.shard for mark in marks], (mark.sums for mark in marks))
    write(packing.folder / MANIFEST, to_json(manifest))
    return manifest


def _parts(packing: Packing) -> tuple[int, int]:
    """The number of parts, all complete, and the number of pairs."""
    marks: dict[int, dict[int, PartMark]] = {}
    for path in sorted(packing.folder.glob(f"part-*{MARK}")):
        if (name := PART.fullmatch(path.name)) is not None:
            try:
                marks.setdefault(int(name[2]), {})[int(name[1])] = build(PartMark, parse(path.read_bytes()))
            except ValueError as error:
                again = _again(int(name[1]) - 1, int(name[2]))
                raise ShardError(f"{path} is not the mark of a part: {error}; delete it, then {again}") from error
    if not marks:
        raise ShardError(f"{packing.folder} holds no finished part; run crossmodal shards CONFIG --part 1/N first")
    parts = max(marks, key=lambda count: (len(marks[count]) == count, len(marks[count])))
    missing = [part for part in range(1, parts + 1) if part not in marks[parts]]
    if missing:
        others = f" (and {len(missing) - 1} others: {', '.join(map(str, missing[1:9]))})" if missing[1:] else ""
        raise ShardError(f"{packing.folder}: part {missing[0]} of {parts} is missing{others}; "
                         f"{_again(missing[0] - 1, parts)}")  # fmt: skip
    pairs = {part: mark.pairs for part, mark in marks[parts].items()}
    for part, mark in marks[parts].items():
        if mark.origin != packing.origin or mark.pairs != pairs[1]:
            raise ShardError(f"{packing.folder}: part {part} of {parts} was packed from another source or config "
                             f"than this one; {_again(part - 1, parts)}")  # fmt: skip
    return parts, pairs[1]


def _again(part: int, parts: int) -> str:
    return f"run crossmodal shards CONFIG --part {part + 1}/{parts}" if parts > 1 else "run the same command again"


def describe(packing: Packing, shards: list[Shard], sums: Iterator[dict[str, Any]]) -> Manifest:
    """The manifest of finished shards, from their indexes and the sums of their signals in the order of the shards.

    Memory does not depend on the number of pairs: keys are compared by hashes of 64 bits, some at a time, and equal
    hashes by the keys themselves.

    Raises:
        ShardError: an index is missing or changed, a key occurs twice, or a field has several extensions.
    """
    tables = partial(_tables, packing.folder, shards)
    labels, groups, lacking, extensions = Counter[int](), Counter[str](), Counter[str](), dict[str, str]()
    for shard, rows in tables():
        values, counts = np.unique(rows.table["label"], return_counts=True)
        labels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if len(groups) <= MOST_GROUPS:
            groups.update(name.decode() for name in rows.table["group"].tolist() if name)
        present = {member.partition(".")[0]: member.partition(".")[2] for member in rows.members}
        for name in packing.fields:
            if name in present and extensions.setdefault(name, present[name]) != present[name]:
                raise ShardError(f"{packing.folder / shard.file}: {name} must have one extension in all pairs, got "
                                 f"{extensions[name]!r} before and {present[name]!r} here")  # fmt: skip
            lacking[name] += int(rows.lacks(f"{name}.{present[name]}").sum()) if name in present else len(rows)
    _refuse_repeated(packing.folder, tables, sum(shard.pairs for shard in shards))
    listed, unlisted = list_groups(groups)
    if unlisted:
        unlisted = sum(len(np.unique(hashes)) for hashes in _hashes(tables, "group", sum(s.pairs for s in shards)))
    moments = {name: moments_of(modality) for name, modality in packing.fields.items()}
    for each in sums:
        for name, statistics in moments.items():
            statistics.join(each[name])
    written = {name: modality for name, modality in packing.fields.items() if name in extensions}
    return Manifest(
        pairs=sum(shard.pairs for shard in shards),
        classes=[*packing.classes],
        fields={
            name: Field(_name_of(modality), extensions[name], {key: getattr(modality, key) for key in modality.stored})
            for name, modality in written.items()
        },
        shards=shards,
        statistics={name: moments[name].summary() for name in written},
        labels={packing.classes[label]: count for label, count in sorted(labels.items()) if label >= 0},
        groups=listed,
        lacking={name: count for name, count in sorted(lacking.items()) if name in written and count},
        unlisted_groups=unlisted,
    )


Tables = Callable[[], Iterator[tuple[Shard, Rows]]]


def _tables(folder: Path, shards: list[Shard]) -> Iterator[tuple[Shard, Rows]]:
    """The rows of all shards, from their indexes."""
    for shard in shards:
        path = index_path(folder / shard.file)
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() != shard.index:
            raise ShardError(f"{path}: its bytes changed since it was written; delete {path} and pack the shard again")
        yield shard, read_rows(path, payload, shard.bytes)[0]


def _hashes(tables: Tables, column: str, pairs: int) -> Iterator[np.ndarray]:
    """The hashes of all texts in a column but empty ones, about `HASHED` at a time; equal ones come together."""
    pieces = max(1, math.ceil(pairs / HASHED))
    for piece in range(pieces):
        found = []
        for _, rows in tables():
            hashes = hash_texts(rows.table[column])[rows.table[column] != b""]
            found.append(hashes[hashes % pieces == piece] if pieces > 1 else hashes)
        yield np.concatenate(found)


def _refuse_repeated(folder: Path, tables: Tables, pairs: int) -> None:
    for hashes in _hashes(tables, "key", pairs):
        values, counts = np.unique(hashes, return_counts=True)
        if not (suspects := values[counts > 1]).size:
            continue
        first: dict[bytes, str] = {}
        for shard, rows in tables():
            for key in rows.table["key"][np.isin(hash_texts(rows.table["key"]), suspects)].tolist():
                if key in first:
                    raise ShardError(f"key {key.decode()!r} appears twice in the source, in {folder / first[key]} and "
                                     f"{shard.file}; keys must be unique in a split")  # fmt: skip
                first[key] = shard.file


def hash_texts(texts: np.ndarray) -> np.ndarray:
    """A hash of 64 bits of each byte string (FNV-1a), whatever the width of the array."""
    letters = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)
    hashes = np.full(len(texts), 0xCBF29CE484222325, dtype=np.uint64)
    for column in letters.T:
        hashes = np.where(column == 0, hashes, (hashes ^ column) * np.uint64(0x100000001B3))
    return hashes


def _name_of(modality: Modality) -> str:
    return type(modality).__module__.rsplit(".", 1)[1]
