"""Everything that can be wrong with a folder of shards, named."""

from collections.abc import Iterator
from pathlib import Path

from crossmodal.shards import Row, Shards, scan, sha256_of
from modalities import MODALITIES
from modalities._base import DecodeError


def check(folder: Path) -> list[str]:
    """Everything that is wrong with a folder of shards, each in one sentence; reads and decodes every byte."""
    shards = Shards.open(folder)
    problems: list[str] = []
    first: dict[str, Path] = {}
    for shard in shards.manifest.shards:
        path = folder / shard.file
        if not path.is_file():
            problems.append(f"{path}: missing, though the manifest lists it")
            continue
        if path.stat().st_size != shard.bytes:
            problems.append(f"{path}: must have {shard.bytes} bytes by the manifest, got {path.stat().st_size}")
        elif sha256_of(path) != shard.sha256:
            problems.append(f"{path}: its bytes changed since it was written (sha256 differs from the manifest's)")
        rows, layout = scan(path)
        problems += layout
        if len(rows) != shard.pairs:
            problems.append(f"{path}: must hold {shard.pairs} pairs by the manifest, got {len(rows)}")
        for row in rows:
            if row.key in first and first[row.key] != path:
                problems.append(f"{path}: pair {row.key!r} is duplicated: it is also in {first[row.key]}")
            first.setdefault(row.key, path)
            problems += _check_row(shards, path, row)
    listed = {shard.file for shard in shards.manifest.shards}
    problems += [f"{path}: not in the manifest" for path in sorted(folder.glob("*.tar")) if path.name not in listed]
    return problems


def _check_row(shards: Shards, path: Path, row: Row) -> Iterator[str]:
    with path.open("rb") as file:
        for name, spec in shards.manifest.fields.items():
            member = shards.member(name)
            if member not in row.members:
                yield f"{path}: pair {row.key!r} is missing its {member!r}"
                continue
            offset, size = row.members[member]
            file.seek(offset)
            payload = file.read(size)
            if not size or len(payload) < size:
                continue  # the scan has named it
            try:
                MODALITIES.get(spec.modality)(**spec.stored).decode(payload)
            except DecodeError as error:
                yield f"{path}: pair {row.key!r}: {member!r} is unreadable: {error}"
    if "json" not in row.members:
        yield f"{path}: pair {row.key!r} is missing its 'json'"
