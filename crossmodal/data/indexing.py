"""Indexes for folders that lack them: those of earlier versions, and WebDataset tars that other programs wrote."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crossmodal.checkpoint import write
from crossmodal.data.index import Rows, index_path, make_index, read_rows, seal
from crossmodal.data.inspection import Inspector
from crossmodal.data.joining import MARK, Packing, describe
from crossmodal.data.manifest import (
    FORMAT,
    MANIFEST,
    Field,
    Manifest,
    Shard,
    ShardError,
    open_field,
    read_manifest,
    sha256_of,
    to_json,
)
from crossmodal.data.plain import build_value, parse
from crossmodal.sources import Pair
from modalities import MODALITIES, Modality

ASIDE = ("json", "cls")  # members that are no fields, of which label and group are read
FIELDS = "fields.json"  # written by hand: the fields of a manifest that is to be made
DAMAGED = 5  # maximum number of unreadable members to report at once


def index_folder(folder: Path) -> str:
    """Writes the indexes that a folder lacks, and a manifest if there is none; tells what it did.

    A folder is readable at any moment, so the same call continues an interrupted one. Tars are not changed.

    Raises:
        ShardError: a tar differs from the manifest or cannot be indexed, or a manifest would have to say what no tar
            says.
    """
    if (folder / MANIFEST).is_file():
        return _complete(folder, read_manifest(folder))
    tars = sorted(folder.glob("*.tar"))
    if any(folder.glob(f"*{MARK}")):
        raise ShardError(f"{folder} holds shards that are not finished; repeat the command that packs them")
    if not tars:
        raise ShardError(f"{folder} holds no tars")
    return _adopt(folder, tars)


def _complete(folder: Path, manifest: Manifest) -> str:
    """Writes the indexes that are missing or of an earlier version; a damaged tar keeps the one it has.

    Raises:
        ShardError: some tars are missing or damaged; the others have their indexes.
    """
    lacking = [number for number, shard in enumerate(manifest.shards) if not _is_current(folder, shard)]
    if not lacking:
        return f"{folder}: all {len(manifest.shards)} shards have an index; nothing to do"
    shards = [*manifest.shards]
    for number in lacking:  # until the end, these shards are read without an index
        shards[number] = replace(shards[number], index="")
    if shards != manifest.shards:
        write(folder / MANIFEST, to_json(replace(manifest, shards=shards)))
    problems = []
    for number in lacking:
        try:
            shards[number] = _index(folder, shards[number])
        except ShardError as error:
            problems.append(str(error))
            if _is_beside(folder, manifest.shards[number]):
                shards[number] = manifest.shards[number]
    version = FORMAT if len(problems) < len(lacking) else manifest.format
    write(folder / MANIFEST, to_json(replace(manifest, shards=shards, format=version)))
    if problems:
        more = f"; {len(problems) - DAMAGED} more tars are damaged" if problems[DAMAGED:] else ""
        rest = f"; the {len(shards) - len(problems)} others have theirs now" if len(shards) > len(problems) else ""
        raise ShardError(f"no index was made for {'; '.join(problems[:DAMAGED])}{more}{rest}")
    kept = len(shards) - len(lacking)
    return f"{folder}: wrote the indexes of {len(lacking)} shards" + (f"; {kept} had one" if kept else "")


def _index(folder: Path, shard: Shard) -> Shard:
    """Writes the index of a shard.

    Raises:
        ShardError: its tar is missing, or is not the one of the manifest.
    """
    path = folder / shard.file
    if not path.is_file():
        raise ShardError(f"{path} is missing, though {folder / MANIFEST} lists it")
    if sha256_of(path) != shard.sha256:
        raise ShardError(f"{path}: its bytes changed since it was written (its sha256 is not the manifest's); see "
                         f"crossmodal shards --check {folder}")  # fmt: skip
    index = make_index(path)
    rows = read_rows(path, index, shard.bytes)[0]
    if len(rows) != shard.pairs:
        raise ShardError(f"{path} must hold {shard.pairs} pairs by its manifest, got {len(rows)}")
    write(index_path(path), index)
    return replace(shard, index=hashlib.sha256(index).hexdigest())


def _is_beside(folder: Path, shard: Shard) -> bool:
    """True if the shard has the index of the manifest."""
    path = index_path(folder / shard.file)
    return bool(shard.index) and path.is_file() and sha256_of(path) == shard.index


def _is_current(folder: Path, shard: Shard) -> bool:
    path = index_path(folder / shard.file)
    return _is_beside(folder, shard) and read_rows(path, path.read_bytes(), shard.bytes)[0].has_facts


@dataclass
class _Adopted:
    """The tars of another program, as they are read."""

    folder: Path
    shards: list[Shard] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)  # the first tar of every name
    labels: int = 0  # classes, by the largest label
    lacks: bool = False  # some pair lacks a member


def _adopt(folder: Path, tars: list[Path]) -> str:
    """Writes indexes and the manifest of tars that another program wrote."""
    found = _Adopted(folder)
    for path in tars:
        shard = seal(path, 0)
        rows = _rows(path, shard)
        found.shards.append(replace(shard, pairs=len(rows)))
        for name in rows.members:
            found.members.setdefault(name, path.name)
            found.lacks |= bool(rows.lacks(name).any())
        found.lacks |= len({*rows.members}) != len(found.members)
        found.labels = max(found.labels, 1 + int(rows.table["label"].max(initial=-1)))
    fields = _fields(found)
    packing = Packing(folder, fields, tuple(map(str, range(found.labels))), partial=found.lacks)
    manifest = describe(packing, found.shards, iter(_sums(found, packing)))
    write(folder / MANIFEST, to_json(manifest))
    others = sorted(
        found.members.keys() - {*ASIDE, *(f"{name}.{spec.extension}" for name, spec in manifest.fields.items())}
    )
    labelled = sum(manifest.labels.values())
    return (f"{folder}: wrote the indexes of {len(tars)} tars and {MANIFEST}: {manifest.pairs} pairs with "
            f"{', '.join(manifest.fields)}, {labelled} of them with a label"
            + (f"; not read: the members {', '.join(others)}" if others else ""))  # fmt: skip


def _rows(path: Path, shard: Shard) -> Rows:
    return read_rows(path, index_path(path).read_bytes(), shard.bytes)[0]


def _fields(found: _Adopted) -> dict[str, Modality]:
    """The fields in `FIELDS`, or without this file those that the names of the members tell.

    Raises:
        ShardError: there is none, or one has options of its stored bytes, which no tar tells.
    """
    path = found.folder / FIELDS
    if path.is_file():
        try:
            given: dict[str, Field] = build_value(dict[str, Field], parse(path.read_bytes()), "")
            for name, spec in given.items():
                if f"{name}.{spec.extension}" not in found.members:
                    raise ShardError(f"no tar has a member '{name}.{spec.extension}'")
            return {name: open_field(name, spec) for name, spec in given.items()}
        except ValueError as error:
            raise ShardError(f"{path}: {error}") from error
    fields: dict[str, Modality] = {}
    for member, tar in found.members.items():
        name, _, extension = member.partition(".")
        if name not in MODALITIES.names() or MODALITIES.get(name).field != name:
            continue
        kind: Any = MODALITIES.get(name)
        if kind.stored:
            raise ShardError(
                f"{found.folder / tar}: {member!r} needs {', '.join(kind.stored)}, which no tar tells; write them "
                f"into {path} (docs/formats.md, Tars of other programs)"
            )
        if extension not in kind.extensions:
            raise ShardError(f"{found.folder / tar}: {member!r} must be one of {', '.join(kind.extensions)}")
        fields[name] = kind()
    if not fields:
        known = [name for name in MODALITIES.names() if MODALITIES.get(name).field == name]
        raise ShardError(
            f"{found.folder}: no member names a field, got {', '.join([*found.members][:5])}; the name of a file must "
            f"end in one of {', '.join(known)} and an extension, such as 0001.rgb.jpg (docs/formats.md)"
        )
    return fields


def _sums(found: _Adopted, packing: Packing) -> Iterator[dict[str, Any]]:
    """The sums of the signals of every tar, all of which are decoded.

    Raises:
        ShardError: some do not decode; up to `DAMAGED` are named.
    """
    inspector = Inspector(packing.fields, packing.partial)
    for shard in found.shards:
        path = packing.folder / shard.file
        inspector.begin()
        with path.open("rb") as file:
            rows = _rows(path, shard)
            for row in map(rows.__getitem__, range(len(rows))):
                spans = {name: span for name, span in row.members.items() if name.partition(".")[0] in packing.fields}
                members = {name: os.pread(file.fileno(), size, offset) for name, (offset, size) in spans.items()}
                inspector.add(Pair(row.key, members, paths=dict.fromkeys(members, str(path))))
                if len(inspector.damaged) >= DAMAGED:
                    raise ShardError("; ".join(inspector.damaged) + "; there may be more")
        if not inspector.damaged:
            yield {name: each.sums() for name, each in inspector.statistics.items()}
    if inspector.damaged:
        raise ShardError("; ".join(inspector.damaged))
