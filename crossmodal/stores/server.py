"""The process that reads stores for the process that started it and for the forks of that one.

The libraries of object stores keep threads, which do not survive a fork, and the workers of a data loader are forks. So
no process of a run uses these libraries itself. This one imports no torch, starts in a fraction of a second, and ends
when all processes that use it have ended.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from multiprocessing.connection import Connection, Listener
from typing import Any, NamedTuple

from crossmodal.stores.backends import Backend, open_backend
from crossmodal.stores.cache import Cache, FullError
from crossmodal.stores.errors import MissingError, StoreError, clean

Spans = Sequence[tuple[int, int]]  # offset and size in bytes
REQUESTS = 32  # objects that are read at the same time
FETCHES = 4  # shards that are fetched into the cache at the same time
QUEUE = 64  # shards that wait to be fetched; further ones are asked for again when they are read
PIECE = 16 << 20  # bytes of a shard that one request fetches
PAUSE_SECONDS = 60.0  # after a fetch failed, or had no room


class Fetch(NamedTuple):
    """A shard to fetch into a cache."""

    url: str
    size: int
    sha256: str


def main(address: str, key: bytes) -> None:
    """Serves until stdin closes, which the processes that use this one hold open."""
    listener = Listener(address, "AF_UNIX", authkey=key, backlog=128)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    sys.stdin.buffer.read()
    os._exit(0)  # requests that nobody waits for any more


def _accept(listener: Listener) -> None:
    operations = Operations()
    while True:
        try:
            connection = listener.accept()
        except Exception:  # a process that ended during the handshake, or that has not the key
            continue
        threading.Thread(target=_serve, args=(connection, operations), daemon=True).start()


def _serve(connection: Connection, operations: "Operations") -> None:
    with connection:
        while True:
            try:
                name, args, options = connection.recv()
            except (EOFError, OSError):
                return
            answer: tuple[StoreError | None, Any]
            try:
                answer = (None, getattr(operations, name)(*args, **options))
            except StoreError as error:
                answer = (error, None)
            except Exception as error:  # an error of a library that it does not declare
                answer = (StoreError(clean(f"{type(error).__name__}: {error}")), None)
            try:
                connection.send((*answer, operations.take_warnings()))
            except OSError:
                return


class Operations:
    """What a client can ask for."""

    def __init__(self) -> None:
        self.readers = ThreadPoolExecutor(REQUESTS)
        self.fetchers = Fetchers()

    def take_warnings(self) -> list[str]:
        """Sentences for the user about fetches, each once."""
        return self.fetchers.take_warnings()

    def size(self, url: str) -> int:
        """The size of an object in bytes."""
        return _backend(url).size(url)

    def get(self, url: str) -> bytes:
        """A whole object."""
        return _backend(url).get(url)

    def get_all(self, urls: Sequence[str]) -> list[bytes | None]:
        """Whole objects, read at the same time; None for one that is missing."""

        def read(url: str) -> bytes | None:
            try:
                return _backend(url).get(url)
            except MissingError:
                return None

        return [*self.readers.map(read, urls)]

    def names(self, url: str) -> list[str]:
        """The names of the objects and folders in a folder, in order."""
        return _open(url).names(url)

    def ranges(self, wanted: Sequence[tuple[str, Spans]]) -> list[list[bytes]]:
        """Spans of several objects, read at the same time."""
        if len(wanted) == 1:
            return [_backend(url).ranges(url, spans) for url, spans in wanted]
        return [*self.readers.map(lambda each: _backend(each[0]).ranges(*each), wanted)]

    def fetch(self, cache: Cache, wanted: Sequence[tuple[str, int, str]], *, now: bool) -> None:
        """Begins to fetch shards (URL, size in bytes, SHA-256) into a cache, if they are not there; does not wait."""
        for each in reversed(wanted) if now else wanted:
            self.fetchers.add(cache, Fetch(*each), now=now)


class Fetchers:
    """Threads that fetch shards into caches, those that are read now before those that are read soon."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Cache, Fetch]] = deque()
        self.busy: set[str] = set()  # those queued or being fetched
        self.paused: dict[str, float] = {}  # until when not to try again
        self.warnings: dict[str, bool] = {}  # sentence -> has been told
        self.changed = threading.Condition()
        for _ in range(FETCHES):
            threading.Thread(target=self._work, daemon=True).start()

    def add(self, cache: Cache, wanted: Fetch, *, now: bool) -> None:
        """Puts a shard into the queue, unless it is there, was just tried, or is in the cache."""
        with self.changed:
            if wanted.sha256 in self.busy:
                if not now:
                    return
                for place, (_, each) in enumerate(self.queue):  # it waits; it is now needed before the others
                    if each.sha256 == wanted.sha256:
                        del self.queue[place]
                        self.queue.appendleft((cache, wanted))
                        break
                return
            if self.paused.get(wanted.sha256, 0) > time.monotonic() or cache.has(wanted.sha256, wanted.size):
                return
            if len(self.queue) >= QUEUE:
                if not now:
                    return
                self.busy.discard(self.queue.pop()[1].sha256)
            self.busy.add(wanted.sha256)
            (self.queue.appendleft if now else self.queue.append)((cache, wanted))
            self.changed.notify()

    def take_warnings(self) -> list[str]:
        """Sentences for the user, each once."""
        with self.changed:
            new = [text for text, told in self.warnings.items() if not told]
            self.warnings |= dict.fromkeys(new, True)
            return new

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queue)
                cache, wanted = self.queue.popleft()
            problem = ""
            try:
                fetch(cache, wanted)
            except (StoreError, FullError) as error:
                problem = str(error)
            except OSError as error:
                problem = f"cache {cache.folder}: {error.strerror or error}; pairs are read straight from the store"
            except Exception as error:
                problem = f"cache {cache.folder}: {type(error).__name__}: {error}"
            with self.changed:
                self.busy.discard(wanted.sha256)
                if problem:
                    self.paused[wanted.sha256] = time.monotonic() + PAUSE_SECONDS
                    self.warnings.setdefault(problem, False)


def fetch(cache: Cache, wanted: Fetch) -> None:
    """Fetches a shard into a cache, unless it is there or another process is fetching it.

    Raises:
        StoreError: it cannot be read, or is not the shard of the manifest.
        FullError: the shards in use leave no room.
        OSError: the disk is full, or the folder cannot be written to.
    """
    backend = _backend(wanted.url)

    def pieces() -> Iterator[bytes]:
        for start in range(0, wanted.size, PIECE):
            yield backend.ranges(wanted.url, [(start, min(PIECE, wanted.size - start))])[0]

    if backend.size(wanted.url) != wanted.size:
        raise StoreError(
            f"{wanted.url} has another size than its manifest says; check it with crossmodal shards --check"
        )
    cache.add(wanted.sha256, wanted.size, pieces(), wanted.url)


@lru_cache(maxsize=256)
def _open(folder: str) -> Backend:
    return open_backend(folder)


def _backend(url: str) -> Backend:
    return _open(url.rpartition("/")[0])
