"""The order of a run's pairs, computed from the manifest alone: the same for any number of ranks and workers.

An epoch is divided into a fixed number of *lanes*, each a run of consecutive pairs. A global batch takes equally many
pairs from every lane, and each rank and worker reads some of the lanes. A run resumed at step n sees the same pairs as
an uninterrupted one, without replaying the steps before.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from modalities.common.random import generator


@dataclass(frozen=True)
class Plan:
    """The order of a run's pairs: the indices in the global batch of each step."""

    pairs: int  # number of pairs in the data set
    batch_size: int  # pairs per step, over all ranks
    seed: int = 0
    lanes: int = 16  # maximum number of lanes; the largest divisor of batch_size up to this is used
    shuffle_block: int = 8192  # consecutive pairs of a lane that are shuffled together
    shard_starts: tuple[int, ...] = ()  # index of each shard's first pair, to shuffle whole shards; empty: one shard

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.pairs:
            raise ValueError(f"batch_size must be from 1 to the number of pairs, {self.pairs}, got {self.batch_size}")

    def __hash__(self) -> int:
        return hash((self.pairs, self.batch_size, self.seed))  # thousands of starts would take long at every step

    @property
    def width(self) -> int:
        """The number of lanes in use."""
        return max(lane for lane in range(1, self.lanes + 1) if self.batch_size % lane == 0)

    @property
    def steps(self) -> int:
        """Steps per epoch; a few left-over pairs, others in each epoch, are not used in it."""
        return (self.pairs // self.width) // (self.batch_size // self.width)

    def epoch(self, epoch: int) -> np.ndarray:
        """The indices of an epoch, [steps, lanes, pairs per lane]; each occurs at most once."""
        return _epoch(self, epoch)


@lru_cache(maxsize=2)
def _epoch(plan: Plan, epoch: int) -> np.ndarray:
    """The order in 4 bytes a pair; nothing else as long as the data set is made, because every worker makes it."""
    random = generator(plan.seed, epoch, "order")
    starts = np.array(plan.shard_starts or (0,), dtype=np.int64)
    sizes = np.diff(starts, append=plan.pairs)
    shuffled = torch.randperm(len(starts), generator=random).numpy()
    ends = sizes[shuffled].cumsum()
    ahead = starts[shuffled] - (ends - sizes[shuffled])  # of a pair's index before its position in the order
    shift = int(torch.randint(plan.pairs, (), generator=random))
    lane_pairs, used = plan.pairs // plan.width, plan.steps * (plan.batch_size // plan.width)
    order = np.empty((plan.width, used), dtype=np.int32 if plan.pairs < 1 << 31 else np.int64)
    for lane in range(plan.width):
        for start in range(0, lane_pairs, plan.shuffle_block):
            count = min(plan.shuffle_block, lane_pairs - start)
            drawn = torch.randperm(count, generator=random).numpy()[: max(used - start, 0)]
            place = (lane * lane_pairs + start - shift + drawn) % plan.pairs
            order[lane, start : start + len(drawn)] = place + ahead[np.searchsorted(ends, place, side="right")]
    return order.reshape(plan.width, plan.steps, -1).transpose(1, 0, 2)
