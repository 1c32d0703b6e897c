"""Features -> shards: one tar at a time, each by one process, and a manifest when all are complete.

A tar is written under a temporary name and renamed. Then a mark file of the same name records that it is complete. So
several processes can write one folder, and an interrupted run continues at the first tar without a mark.
"""

import json
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from crossmodal.checkpoint import write, writing
from crossmodal.data.features import FeatureManifest, encode, to_json
from crossmodal.data.index import seal
from crossmodal.data.manifest import MANIFEST, Shard, ShardError
from crossmodal.data.plain import build, parse
from crossmodal.data.writer import open_tar

MARK = ".done"  # suffix of the mark file beside a complete tar


@dataclass(frozen=True)
class Mark:
    """The content of a mark file."""

    unreadable: int  # number of records of pairs that could not be read
    shard: Shard


@dataclass
class FeatureTar:
    """One tar that is being written, as a context manager; leaving it without an error marks the tar as complete."""

    path: Path
    pairs: int = 0
    unreadable: int = 0
    tar: Any = field(init=False)

    def __post_init__(self) -> None:
        self._aside = self.path.with_name(f".{self.path.name}")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.tar = open_tar(self._aside)

    def add(self, key: str, members: Mapping[str, np.ndarray]) -> None:
        """Adds the features of a pair: arrays of shape [windows, *size]."""
        self._write(key, {f"{name}.npy": encode(values) for name, values in members.items()})

    def add_unreadable(self, key: str, problem: str) -> None:
        """Adds a record in place of a pair that could not be read, with the reason."""
        self._write(key, {"json": json.dumps({"unreadable": problem}).encode()})
        self.unreadable += 1

    def _write(self, key: str, members: Mapping[str, bytes]) -> None:
        with writing(self.path):
            self.tar.write({"__key__": key, **members})
        self.pairs += 1

    def __enter__(self) -> "FeatureTar":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        try:
            with (
                suppress(*() if kind is None else (OSError,)),
                writing(self.path),
            ):  # the error of the `with` block has priority
                with closing(self.tar.stream):  # close() leaves it open if it fails
                    self.tar.close()
                if kind is None:
                    self._aside.replace(self.path)
        finally:
            self._aside.unlink(missing_ok=True)
        if kind is not None:
            return
        mark = Mark(self.unreadable, seal(self.path, self.pairs))
        write(_mark_path(self.path), json.dumps(asdict(mark)))


def is_done(path: Path) -> bool:
    """True if a tar has a readable mark and the size that the mark records."""
    try:
        return path.stat().st_size == _read_mark(path).shard.bytes
    except (ShardError, FileNotFoundError):
        return False


def write_manifest(folder: Path, files: list[str], **facts: Any) -> FeatureManifest:
    """Combines the marks of all tars, in order, into the manifest.

    Args:
        folder: the folder of the tars.
        files: their names.
        facts: the remaining fields of the manifest.
    """
    marks = [_read_mark(folder / file) for file in files]
    unreadable = sum(mark.unreadable for mark in marks)
    shards = [mark.shard for mark in marks]
    pairs = sum(shard.pairs for shard in shards)
    manifest = FeatureManifest(shards=shards, pairs=pairs, unreadable=unreadable, **facts)
    write(folder / MANIFEST, to_json(manifest))
    return manifest


def remove_marks(folder: Path) -> None:
    """Removes the marks, once no run needs to be continued."""
    for mark in folder.glob(f"*{MARK}"):
        mark.unlink()


def _read_mark(tar: Path) -> Mark:
    path = _mark_path(tar)
    try:
        return build(Mark, parse(path.read_bytes()))
    except ValueError as error:
        raise ShardError(f"{path} is not the mark of a complete tar: {error}; delete it") from error


def _mark_path(tar: Path) -> Path:
    return tar.with_suffix(MARK)
