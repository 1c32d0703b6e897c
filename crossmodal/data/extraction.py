"""Shards -> what a frozen network will see of every pair in all of a training, each pair read and decoded once."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import Dataset

from crossmodal.data.loader import load_in_order
from crossmodal.data.manifest import ShardError
from crossmodal.data.reader import SampleBatch, join, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.verify import tell_lacking
from crossmodal.data.views import Crop, View


@dataclass(frozen=True)
class Crops:
    """Some neighbouring pairs of one shard, through every one of their windows."""

    keys: list[str]
    problems: list[str | None]  # why a pair cannot be read; None: it can
    part: SampleBatch | None  # a row for each window of each pair that can be read, pair by pair; None: no pair can

    def pin_memory(self) -> "Crops":
        """The same in page-locked memory, for the loader."""
        return Crops(self.keys, self.problems, self.part and self.part.pin_memory())


@dataclass(frozen=True)
class Extract(Dataset):
    """The looks of whole shards, a batch at a time."""

    shards: Shards
    views: dict[str, View]
    crop: Crop  # with a number of windows
    seed: int
    batches: list[range]  # indices of neighbouring pairs
    skip_unreadable: bool = False

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Crops | ShardError:
        keys, problems, parts = [], list[str | None](), []
        for index in self.batches[number]:
            try:
                parts.append(self._read(index))
                problems.append(None)
            except ShardError as error:
                if not self.skip_unreadable:
                    return ShardError(f"{error} (on_error: skip goes on without it, named and counted)")
                problems.append(str(error))
            keys.append(self._key(index))
        return Crops(keys, problems, join(parts) if parts else None)

    def _read(self, index: int) -> SampleBatch:
        epochs = self.crop.windows
        assert epochs is not None, "a pair must have a number of windows"
        return read_pair(self.shards, self.views, index, crop=self.crop, address=(self.seed, 0), epochs=epochs)

    def _key(self, index: int) -> str:
        try:
            return self.shards.locate(index)[1].key
        except ShardError:  # a whole shard is unreadable; no pair will ask for the record by its key
            return f"unreadable-{index}"


def batches_of(shards: Shards, number: int, pairs: int) -> list[range]:
    """The indices of a shard in runs of at most `pairs`."""
    start, stop = int(shards.starts[number]), int(shards.starts[number + 1])
    return [range(first, min(first + pairs, stop)) for first in range(start, stop, pairs)]


def crop_batches(extract: Extract, *, workers: int = 0, pin_memory: bool = False) -> Iterator[Crops]:
    """The looks of every batch, in order.

    Raises:
        ShardError: a pair cannot be read, or lacks what is looked at, and `skip_unreadable` is off.
    """
    if not extract.skip_unreadable and (told := tell_lacking(extract.shards, extract.views)):
        raise ShardError(told)
    return load_in_order(extract, workers=workers, pin_memory=pin_memory)
