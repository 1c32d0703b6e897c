"""Reads the members of shards in a store, by ranges or from the cache of whole shards."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from crossmodal.data.index import index_path
from crossmodal.data.manifest import MANIFEST, Shard, ShardError
from crossmodal.stores import client
from crossmodal.stores.errors import MissingError, ShortError
from crossmodal.stores.paths import RemotePath

Span = tuple[int, int]  # offset and size in bytes


@contextmanager
def _reading(path: RemotePath) -> Iterator[None]:
    try:
        yield
    except MissingError as error:
        raise ShardError(f"{path} is missing, though {path.parent / MANIFEST} lists it") from error
    except ShortError as error:
        raise ShardError(str(error)) from error


@dataclass
class RemoteShards:
    """The shards of a folder in a store.

    With a cache, a shard is read from the local disk once it has been fetched; until then, and without a cache, its
    members are read from the store one by one. Nothing waits for the cache.
    """

    folder: RemotePath
    shards: Sequence[Shard]
    held: dict[tuple[int, Span], bytes] = field(default_factory=dict, repr=False)  # read ahead
    indexes: dict[int, bytes] = field(default_factory=dict, repr=False)  # read ahead

    def index(self, number: int) -> bytes:
        """The index of a shard, from the cache if there is one.

        Raises:
            ShardError: it is missing or not the one of the manifest.
            StoreError: the store cannot be read.
        """
        shard, cache = self.shards[number], self.folder.cache
        path = index_path(self.folder / shard.file)
        if (held := self.indexes.pop(number, None)) is not None:
            return held
        if cache is not None and (kept := cache.read_small(shard.index)) is not None:
            return kept
        with _reading(path):
            payload = path.read_bytes()
        if cache is not None:
            cache.add_small(shard.index, payload)
        return payload

    def read_indexes(self, numbers: Iterable[int]) -> None:
        """Reads the indexes of several shards at the same time, and holds them until the next call.

        Raises:
            StoreError: the store cannot be read.
        """
        self.indexes.clear()
        cache, wanted = self.folder.cache, [number for number in numbers if self.shards[number].index]
        if cache is not None:
            kept = {number: cache.read_small(self.shards[number].index) for number in wanted}
            self.indexes |= {number: payload for number, payload in kept.items() if payload is not None}
        left = [number for number in wanted if number not in self.indexes]
        answers = client.ask("get_all", [str(index_path(self.folder / self.shards[number].file)) for number in left])
        for number, payload in zip(left, answers, strict=True):
            if payload is not None:
                self.indexes[number] = payload
                if cache is not None:
                    cache.add_small(self.shards[number].index, payload)

    def read(self, number: int, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of a shard at each (offset, size).

        Raises:
            ShardError: the shard is missing or cut short.
            StoreError: the store cannot be read.
        """
        held = [self.held.pop((number, span), None) for span in spans]
        if None not in held:
            return held  # type: ignore[return-value]
        shard, cache = self.shards[number], self.folder.cache
        if cache is not None:
            if (payloads := cache.read(shard.sha256, shard.bytes, spans)) is not None:
                return payloads
            self._fetch([number], now=True)
        return self._read(number, spans)

    def _read(self, number: int, spans: Sequence[Span]) -> list[bytes]:
        path = self.folder / self.shards[number].file
        with _reading(path):
            return path.read_spans(spans)

    def read_again(self, number: int, spans: Sequence[Span]) -> list[bytes]:
        """The same bytes straight from the store, after those of a first reading were wrong."""
        if self.folder.cache is not None:
            self.folder.cache.remove(self.shards[number].sha256)
        return self._read(number, spans)

    def missing(self, numbers: Iterable[int]) -> set[int]:
        """Those of the shards that are not in the cache; without a cache, all."""
        found, cache = {*numbers}, self.folder.cache
        if cache is None:
            return found
        return {number for number in found if not cache.has(self.shards[number].sha256, self.shards[number].bytes)}

    def read_ahead(self, wanted: Mapping[int, Sequence[Span]], later: Iterable[int]) -> None:
        """Reads spans of several shards at the same time, and holds them until the next call; fetches later shards.

        Raises:
            StoreError: the store cannot be read.
        """
        self.held.clear()
        if self.folder.cache is not None:
            self._fetch(wanted, now=True)
            self._fetch(later, now=False)
        asked = [(str(self.folder / self.shards[number].file), list(spans)) for number, spans in wanted.items()]
        if not asked:
            return
        try:
            answers = client.ask("ranges", asked)
        except (MissingError, ShortError):
            return  # `read` names the shard
        for (number, spans), payloads in zip(wanted.items(), answers, strict=True):
            self.held.update(zip(((number, span) for span in spans), payloads, strict=True))

    def _fetch(self, numbers: Iterable[int], *, now: bool) -> None:
        """Asks for whole shards to be fetched into the cache, and does not wait."""
        wanted = [(str(self.folder / self.shards[number].file), self.shards[number].bytes, self.shards[number].sha256)
                  for number in numbers]  # fmt: skip
        if wanted:
            client.ask("fetch", self.folder.cache, wanted, now=now)
