"""Checks of a folder of shards that name every problem."""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from crossmodal.data.index import Row, index_path, make_index, read_rows, scan
from crossmodal.data.manifest import MANIFEST, Manifest, Shard, ShardError, open_field, parse_facts, sha256_of
from crossmodal.data.shards import Shards
from crossmodal.data.views import Picture, tell_turned, tell_uneven
from crossmodal.stores.errors import UnlistableError
from crossmodal.stores.paths import AnyPath
from modalities import Modality

Readers = Mapping[str, Callable[..., object]]  # "rgb.jpg" -> a function that raises ValueError for invalid bytes


def check(folder: AnyPath, *, warn: Callable[[str], None] = lambda message: None) -> list[str]:
    """The problems of a folder of shards, each in one sentence; reads and decodes every byte.

    Pictures of different proportions are a problem only for runs with aligned views: the first pair goes to `warn`.
    """
    shards = Shards.open(folder)
    fields, problems = dict[str, Modality](), list[str]()
    for name, spec in shards.manifest.fields.items():
        try:
            fields[name] = open_field(name, spec)
        except ShardError as error:
            problems.append(f"{folder / MANIFEST}: {error}")
    manifest, absent, uneven = shards.manifest, Counter[str](), Counter[str]()
    problems += check_tars(
        folder, manifest.shards, _readers(manifest, fields), may_lack=manifest.lacking, absent=absent, uneven=uneven
    )
    for first, count in uneven.items():
        warn(f"{first}; so do {count} of {manifest.pairs} pairs; set aligned: false for one of the views in a run")
    return problems + [
        f"{folder}: {count} pairs must lack {name!r} by the manifest, got {absent[name]}"
        for name, count in manifest.lacking.items()
        if count != absent[name]
    ]


def check_tars(
    folder: AnyPath,
    shards: list[Shard],
    readers: Readers,
    *,
    may_lack: Container[str] = (),
    absent: Counter[str] | None = None,
    uneven: Counter[str] | None = None,
) -> list[str]:
    """The problems of the tars of a folder, by its manifest and by the `readers` of their members.

    `absent` counts the pairs without each of the fields that they `may_lack`. `uneven` counts the pairs whose pictures
    have different proportions, under a message about the first.
    """
    earlier = _Seen(may_lack, Counter() if absent is None else absent, Counter() if uneven is None else uneven)
    problems = [problem for shard in shards for problem in _check_shard(folder / shard.file, shard, readers, earlier)]
    listed = {shard.file for shard in shards}
    paths: list[AnyPath] = []
    with suppress(UnlistableError):  # a web server need not list what it has
        paths = [*folder.glob("*.tar")]
    return problems + [f"{path}: not in the manifest" for path in sorted(paths, key=str) if path.name not in listed]


def _readers(manifest: Manifest, fields: Mapping[str, Modality]) -> Readers:
    decoders = {
        f"{name}.{manifest.fields[name].extension}": partial(_look_at, modality=modality)
        for name, modality in fields.items()
    }
    return {**decoders, "json": partial(parse_facts, classes=len(manifest.classes))}


def _look_at(payload: bytes, modality: Modality) -> Picture | None:
    return Picture.of(modality, modality.decode(payload), payload)


@dataclass
class _Seen:
    """The counts and keys of the tars checked so far."""

    may_lack: Container[str]
    absent: Counter[str]  # number of pairs without a field that they may lack
    uneven: Counter[str]  # number of pairs with pictures of different proportions, by a message about the first
    first: dict[str, AnyPath] = field(default_factory=dict)  # where each key was first seen


def _check_shard(path: AnyPath, shard: Shard, readers: Readers, seen: _Seen) -> Iterator[str]:
    """The problems of one shard."""
    if not path.is_file():
        yield f"{path}: missing, though the manifest lists it"
        return
    if path.stat().st_size != shard.bytes:
        yield f"{path}: must have {shard.bytes} bytes by the manifest, got {path.stat().st_size}"
    elif sha256_of(path) != shard.sha256:
        yield f"{path}: its bytes changed since it was written (sha256 differs from the manifest's)"
    rows, broken = scan(path)
    yield from broken
    whole = not broken and not any(row.problems for row in rows)
    with_facts = False  # of every pair in the index, so that pairs need no JSON member
    if shard.index and not (index := index_path(path)).is_file():
        yield f"{index}: missing, so every process must read the whole shard before its first pair"
    elif shard.index and sha256_of(index) != shard.index:
        yield f"{index}: its bytes changed since it was written (sha256 differs from the manifest's)"
    elif shard.index and whole:
        try:
            with_facts = read_rows(path, payload := index.read_bytes(), shard.bytes)[0].has_facts
            if with_facts and payload != make_index(path):
                yield f"{index}: does not describe its shard; delete it and run crossmodal shards --index {path.parent}"
        except ValueError as error:
            yield str(error) if f"{path}" in str(error) else f"{index}: {error}"
    if len(rows) != shard.pairs:
        yield f"{path}: must hold {shard.pairs} pairs by the manifest, got {len(rows)}"
    with path.open("rb") as file:
        for row in rows:
            if seen.first.setdefault(row.key, path) != path:
                yield f"{path}: pair {row.key!r} is duplicated: it is also in {seen.first[row.key]}"
            for problem in (*row.problems, *_check_row(file, row, readers, seen, with_facts)):
                yield f"{path}: pair {row.key!r} {problem}"


def _check_row(file: BinaryIO, row: Row, readers: Readers, seen: _Seen, with_facts: bool) -> Iterator[str]:
    pictures: dict[str, Picture] = {}
    for member, read in readers.items():
        name = member.partition(".")[0]
        if member not in row.members:
            if member == "json" and with_facts:
                continue
            if name in seen.may_lack:
                seen.absent[name] += 1
            else:
                yield f"is missing its {member!r}"
            continue
        offset, size = row.members[member]
        if not size or offset + size > file.seek(0, os.SEEK_END):
            continue  # the scan has reported it; nothing is read, because a damaged header may claim any size
        file.seek(offset)
        payload = file.read(size)
        try:
            content = read(payload, label=-1) if member == "json" and with_facts else read(payload)
        except Exception as error:  # for damaged bytes a decoder may raise anything, even MemoryError
            yield f"has an unreadable {member!r}: {error or type(error).__name__}"
            continue
        if isinstance(content, Picture):
            pictures[name] = content
    if message := tell_turned(pictures):
        yield f"has pictures that disagree: {message}"
    if message := tell_uneven(pictures):
        seen.uneven[next(iter(seen.uneven), f"{file.name}: pair {row.key!r}: {message}")] += 1
