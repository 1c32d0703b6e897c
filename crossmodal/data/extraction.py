"""Shards -> every crop of each pair that a frozen teacher sees during a training, decoding each pair once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from crossmodal.data.loader import load_in_order
from crossmodal.data.manifest import ShardError
from crossmodal.data.reader import SampleBatch, join, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.stores.errors import StoreError

HINT = "(on_error: skip continues without it, and reports and counts it)"


@dataclass(frozen=True)
class Crops:
    """All crops of some consecutive pairs of one shard."""

    keys: list[str]
    problems: list[str | None]  # for each pair, why it cannot be read; None: it can
    incomplete: list[bool]  # for each pair, whether it lacks a view by the manifest, which is such a problem
    part: SampleBatch | None  # a row for each crop of each readable pair, pair by pair; None: no pair is readable

    def pin_memory(self) -> "Crops":
        """A copy in page-locked memory, for the loader."""
        return replace(self, part=self.part and self.part.pin_memory())


@dataclass(frozen=True)
class Extract(Dataset):
    """All crops of the pairs of whole shards, one item per batch of pairs."""

    shards: Shards
    views: dict[str, View]
    crop: Crop  # its `windows` must be set
    seed: int
    batches: list[range]  # indices of consecutive pairs
    skip_unreadable: bool = False

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Crops | ShardError | StoreError:
        try:
            return self._crops(self.batches[number])
        except (ShardError, StoreError) as error:
            return error

    def _crops(self, indices: range) -> Crops:
        keys, problems, incomplete, parts = [], list[str | None](), list[bool](), []
        self.shards.read_ahead(indices, self._members)
        for index in indices:
            try:
                lacking = [name for name in self._members if self.shards.lacks(index, name)]
                problem = f"it has no {', '.join(lacking)}" if lacking else None
                parts += [] if lacking else [self._read(index)]
            except ShardError as error:
                if not self.skip_unreadable:
                    raise ShardError(f"{error} {HINT}") from error
                lacking, problem = [], str(error)
            problems.append(problem)
            incomplete.append(bool(lacking))
            keys.append(self._key(index))
        return Crops(keys, problems, incomplete, join(parts) if parts else None)

    @property
    def _members(self) -> list[str]:
        return [self.shards.member(view.modality.field) for view in self.views.values()]

    def _read(self, index: int) -> SampleBatch:
        epochs = self.crop.windows
        assert epochs is not None, "crop.windows must be set"
        return read_pair(self.shards, self.views, index, crop=self.crop, address=(self.seed, 0), epochs=epochs)

    def _key(self, index: int) -> str:
        try:
            return self.shards.locate(index)[1].key
        except ShardError:  # the whole shard is unreadable; no pair reads the record by its key
            return f"unreadable-{index}"


def batches_of(shards: Shards, number: int, pairs: int) -> list[range]:
    """The indices of a shard, in ranges of at most `pairs`."""
    start, stop = int(shards.starts[number]), int(shards.starts[number + 1])
    return [range(first, min(first + pairs, stop)) for first in range(start, stop, pairs)]


def crop_batches(extract: Extract, *, workers: int = 0, pin_memory: bool = False) -> Iterator[Crops]:
    """The crops of every batch, in order.

    Raises:
        ShardError: a pair cannot be read, and `skip_unreadable` is off.
    """
    return load_in_order(extract, workers=workers, pin_memory=pin_memory)
