"""The cache of whole shards: never above its limit, never a half file, whoever is killed and whoever else fetches."""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossmodal.stores import cache as caches
from crossmodal.stores import server
from crossmodal.stores.cache import Cache, FullError
from crossmodal.stores.errors import StoreError
from crossmodal.stores.server import Fetch, Fetchers

FORK = multiprocessing.get_context("fork")
SIZE = 40_000


def content(number: int) -> tuple[str, bytes]:
    payload = bytes([number]) * SIZE
    return hashlib.sha256(payload).hexdigest(), payload


def pieces(payload: bytes, pause: float = 0.0) -> Iterator[bytes]:
    for start in range(0, len(payload), SIZE // 4):
        yield payload[start : start + SIZE // 4]
        time.sleep(pause)


def add(cache: Cache, number: int, pause: float = 0.0) -> None:
    sha256, payload = content(number)
    cache.add(sha256, SIZE, pieces(payload, pause), f"shard {number}")


def used(cache: Cache) -> int:
    """As a user would sum it up, without the lock."""
    total = 0
    for path in cache.folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with room for three shards, which may be removed as soon as they were read."""
    monkeypatch.setattr(caches, "IN_USE_SECONDS", 0.0)
    return Cache(tmp_path / "cache", 3 * SIZE + 100)


def test_what_is_added_is_read_and_what_was_read_longest_ago_makes_room(three: Cache) -> None:
    for number in range(3):
        add(three, number)
        os.utime(three.folder / content(number)[0], (number, number))
    sha256, payload = content(0)
    assert three.read(sha256, SIZE, [(10, 5), (SIZE - 3, 3)]) == [payload[10:15], payload[-3:]]  # 0 is now the newest
    add(three, 3)
    assert [three.has(content(number)[0], SIZE) for number in range(4)] == [True, False, True, True]
    assert three.read(content(1)[0], SIZE, [(0, 1)]) is None


def test_shards_in_use_are_not_removed(three: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        add(three, number)
    monkeypatch.setattr(caches, "IN_USE_SECONDS", 100.0)
    with pytest.raises(FullError, match=r"do not hold all shards in use, .* raise cache.gb"):
        add(three, 3)
    assert used(three) == 3 * SIZE
    with pytest.raises(FullError):
        Cache(three.folder / "other", SIZE - 1).add(*content(0)[:1], SIZE, pieces(content(0)[1]), "too large")


def _churn(cache: Cache, seed: int) -> None:
    for step in range(12):
        with contextlib.suppress(FullError):  # of three that are being written, none can be removed
            add(cache, (seed * 5 + step * (seed + 1)) % 9, pause=0.002)


def test_several_processes_never_exceed_the_limit_at_any_time(three: Cache) -> None:
    workers = [FORK.Process(target=_churn, args=(three, seed)) for seed in range(4)]
    seen, held = [], set()
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        seen.append(used(three))
        held.add(frozenset(path.name for path in three.folder.glob("*")))
    assert max(seen) <= three.limit
    assert max(seen) >= 2 * SIZE and len(held) > 2  # it did look while they wrote
    assert not [*three.folder.glob("*.part")]
    for path in three.folder.glob("?" * 64):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_whole_and_its_space_is_given_back(three: Cache) -> None:
    killed = FORK.Process(target=add, args=(three, 7, 30.0))
    killed.start()
    part = three.folder / f"{content(7)[0]}.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.read_bytes()[:1] == bytes([7])):  # the first quarter is written
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    assert part.stat().st_size == SIZE and not three.has(content(7)[0], SIZE)
    assert three.read(content(7)[0], SIZE, [(0, 1)]) is None
    for number in range(3):  # they need all the space
        add(three, number)
    assert not part.exists() and used(three) == 3 * SIZE
    add(three, 7)
    assert three.read(content(7)[0], SIZE, [(SIZE - 1, 1)]) == [bytes([7])]


def test_the_same_shard_is_fetched_once_and_a_killed_fetch_is_begun_anew(three: Cache) -> None:
    calls = []

    def slow() -> Iterator[bytes]:
        calls.append(1)
        yield from pieces(content(1)[1], 0.03)

    threads = [threading.Thread(target=three.add, args=(content(1)[0], SIZE, slow(), "")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1] and three.has(content(1)[0], SIZE)
    three.remove(content(1)[0])
    (three.folder / f"{content(1)[0]}.part").write_bytes(b"x" * 2 * SIZE)  # of a killed process
    add(three, 1)
    assert three.read(content(1)[0], SIZE, [(0, 2)]) == [bytes([1, 1])]


@pytest.mark.parametrize("payload", [b"\x01" * (SIZE - 1), b"\x01" * (SIZE + 1), b"\x02" * SIZE])
def test_other_bytes_than_the_manifest_says_are_not_kept(three: Cache, payload: bytes) -> None:
    with pytest.raises(StoreError, match=r"s3://b/1.tar has other bytes than its manifest says"):
        three.add(content(1)[0], SIZE, iter([payload]), "s3://b/1.tar")
    assert used(three) == 0


def test_a_shard_is_not_removed_while_another_process_makes_room(three: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        add(three, number)
    removing = threading.Thread(target=three.remove, args=(content(0)[0],))

    def now() -> float:  # is asked for when the files are known, and before one is removed
        removing.start()
        removing.join(0.2)
        return time.time()

    monkeypatch.setattr(caches, "time", SimpleNamespace(time=now))
    add(three, 3)
    removing.join()
    monkeypatch.setattr(caches, "LOCK", "no/lock")
    three.remove(content(1)[0])  # the lock cannot be taken; the shard stays, and nothing is raised
    assert [three.has(content(number)[0], SIZE) for number in range(4)] == [False, True, True, True]


def test_a_fetch_that_fails_waits_for_the_lock_before_it_removes_its_file(three: Cache) -> None:
    begun, locked = threading.Event(), threading.Event()

    def failing() -> Iterator[bytes]:
        begun.set()
        locked.wait(20)
        yield b"too short"

    def fetch() -> None:
        with contextlib.suppress(StoreError):
            three.add("0" * 64, SIZE, failing(), "x")

    fetching = threading.Thread(target=fetch)
    fetching.start()
    assert begun.wait(20)
    with three._locked():
        locked.set()
        fetching.join(0.2)
        assert used(three) == SIZE
    fetching.join()
    assert used(three) == 0


def test_small_files_are_compared_whenever_they_are_read(three: Cache) -> None:
    sha256, payload = content(4)
    three.add_small(sha256, payload)
    assert three.read_small(sha256) == payload
    (three.folder / sha256).write_bytes(payload[:-1])
    assert three.read_small(sha256) is None
    assert three.read(sha256, SIZE, [(0, 1)]) is None  # another size


class _Backend:
    def size(self, url: str) -> int:
        return SIZE

    def ranges(self, url: str, spans: list[tuple[int, int]]) -> list[bytes]:
        return [content(1)[1][start : start + size] for start, size in spans]


def _fetch(cache: Cache) -> list[str]:
    """The warnings of a fetch."""
    fetchers = Fetchers()
    fetchers.add(cache, Fetch("s3://b/1.tar", SIZE, content(1)[0]), now=True)
    deadline = time.monotonic() + 20
    while fetchers.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fetchers.add(cache, Fetch("s3://b/1.tar", SIZE, content(1)[0]), now=True)
    assert not fetchers.busy  # done, or not tried again at once
    return fetchers.take_warnings()


def test_a_full_disk_is_told_once_and_nothing_is_left(three: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(server, "_backend", lambda url: _Backend())
    with monkeypatch.context() as patch:
        patch.setattr(caches, "_reserve", full)
        (warning,) = _fetch(three)
    assert warning == f"cache {three.folder}: No space left on device; pairs are read straight from the store"
    assert not [*three.folder.glob("*.part")]
    assert _fetch(three) == [] and three.has(content(1)[0], SIZE)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_backend", lambda url: _Backend())
    (tmp_path / "file").write_text("")
    (warning,) = _fetch(Cache(tmp_path / "file", 10 * SIZE))
    assert warning.startswith(f"cache {tmp_path / 'file'}: ") and "read straight from the store" in warning


def test_a_cache_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_backend", lambda url: _Backend())
    (warning,) = _fetch(Cache(tmp_path / "cache", SIZE - 1))
    assert "raise cache.gb" in warning
