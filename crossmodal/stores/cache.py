"""Whole shards on the local disk, shared by all processes of a machine, under a limit that is never exceeded.

A file is named by the SHA-256 of its content, so it is the right one wherever it came from. It is written aside under
its full size, checked, and then renamed; so a file under its name is whole, whatever was killed. What adds or removes
names holds the lock of the folder.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from crossmodal.stores.errors import StoreError

IN_USE_SECONDS = 10.0  # since the last read, in which a shard is not removed
OURS = re.compile(r"[0-9a-f]{64}(\.part)?")
LOCK = ".lock"


class FullError(Exception):
    """The shards in use leave no room for another one."""


@dataclass(frozen=True)
class Cache:
    """A folder with the shards that were used last."""

    folder: Path
    limit: int  # bytes of all files together

    def has(self, sha256: str, size: int) -> bool:
        """True if the shard is there."""
        try:
            return (self.folder / sha256).stat().st_size == size
        except OSError:
            return False

    def read(self, sha256: str, size: int, spans: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """The bytes of a shard at each (offset, size); None if it is not there or cannot be read."""
        try:
            descriptor = os.open(self.folder / sha256, os.O_RDONLY)
        except OSError:
            return None
        try:
            if os.fstat(descriptor).st_size != size:
                return None
            with suppress(OSError):  # the file of another user
                os.utime(descriptor)
            return [os.pread(descriptor, count, offset) for offset, count in spans]
        except OSError:
            return None
        finally:
            os.close(descriptor)  # not kept: a removed file takes space until it is closed

    def read_small(self, sha256: str) -> bytes | None:
        """A whole file, such as the index of a shard; None if it is not there, or has changed."""
        path = self.folder / sha256
        try:
            payload = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return payload if hashlib.sha256(payload).hexdigest() == sha256 else None

    def add_small(self, sha256: str, payload: bytes) -> None:
        """Writes such a file, if there is room."""
        with suppress(FullError, OSError):  # the next process reads it from the store
            self.add(sha256, len(payload), [payload], sha256)

    def remove(self, sha256: str) -> None:
        """Removes a shard, whose bytes have changed on the disk, if the folder can be written to."""
        with suppress(OSError), self._locked():
            (self.folder / sha256).unlink(missing_ok=True)

    def add(self, sha256: str, size: int, pieces: Iterable[bytes], name: str) -> None:
        """Writes a shard, unless it is there or another process is writing it.

        Args:
            sha256: of its content.
            size: in bytes.
            pieces: its content.
            name: of the shard in messages.

        Raises:
            StoreError: the content is not that of this SHA-256.
            FullError: the shards in use leave no room.
            OSError: the disk is full, or the folder cannot be written to.
        """
        path = self.folder / f"{sha256}.part"
        with self._locked():
            if self.has(sha256, size):
                return
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)  # what a killed process left
                self._make_room(size, path)
                _reserve(descriptor, size)
            except BlockingIOError:
                os.close(descriptor)
                return
            except BaseException:
                path.unlink()
                os.close(descriptor)
                raise
        try:
            digest, place = hashlib.sha256(), 0
            for piece in pieces:
                if place + len(piece) > size:
                    break
                digest.update(piece)
                end = place + len(piece)
                while place < end:  # a write may be short
                    place += os.pwrite(descriptor, piece[place - end :], place)
            if digest.hexdigest() != sha256 or place != size:
                raise StoreError(f"{name} has other bytes than its manifest says (sha256 differs); check it with "
                                 "crossmodal shards --check")  # fmt: skip
            os.fsync(descriptor)
            with self._locked():
                path.rename(self.folder / sha256)
        except BaseException:
            with suppress(OSError), self._locked():  # what stays is removed by the next one that needs room
                path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def _make_room(self, size: int, own: Path) -> None:
        """Removes shards, those first that were read longest ago, until one of `size` bytes fits."""
        files = []
        for path in self.folder.iterdir():
            if OURS.fullmatch(path.name) and path != own and not _is_left(path):
                files.append((path.stat().st_mtime, path.stat().st_size, path))
        used, now = sum(size for _, size, _ in files), time.time()
        for read, bytes_, path in sorted(files):
            if used + size <= self.limit:
                return
            if path.suffix or now - read < IN_USE_SECONDS:
                continue
            path.unlink()
            used -= bytes_
        if used + size > self.limit:
            raise FullError(
                f"cache {self.folder}: the {self.limit / 1e9:.4g} GB do not hold all shards in use, so some pairs are "
                "read straight from the store; raise cache.gb, or lower train.lanes or train.shuffle_block"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_left(path: Path) -> bool:
    """Removes a file that a killed process left half-written; gives True if it was one."""
    if not path.suffix:
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Takes the space on the disk, so that a full one is found out before anything is fetched."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)  # macOS


_CURRENT: list[Cache] = []  # the one in use


def use(cache: Cache | None) -> None:
    """Sets the cache of the paths that `crossmodal.stores.paths.to_path` makes from now on; None: no cache."""
    _CURRENT[:] = [] if cache is None else [cache]


def current() -> Cache | None:
    """The cache that `use` has set."""
    return _CURRENT[0] if _CURRENT else None
