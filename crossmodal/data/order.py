"""The order of a run's pairs, computed from the manifest alone: the same for any number of ranks and workers.

An epoch is divided into a fixed number of *lanes*, each a run of consecutive pairs. A global batch takes equally many
pairs from every lane, and each rank and worker reads some of the lanes. A run resumed at step n sees the same pairs as
an uninterrupted one, without replaying the steps before.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

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
    random = generator(plan.seed, epoch, "order")
    bounds = [*plan.shard_starts, plan.pairs] if plan.shard_starts else [0, plan.pairs]
    runs = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    order = np.concatenate([runs[shard] for shard in torch.randperm(len(runs), generator=random).tolist()])
    order = np.roll(order, int(torch.randint(plan.pairs, (), generator=random)))
    lane_pairs = plan.pairs // plan.width
    used = plan.steps * (plan.batch_size // plan.width)
    lanes = []
    for lane in range(plan.width):
        run = order[lane * lane_pairs : (lane + 1) * lane_pairs]
        blocks = [run[start : start + plan.shuffle_block] for start in range(0, lane_pairs, plan.shuffle_block)]
        shuffled = [block[torch.randperm(len(block), generator=random).numpy()] for block in blocks]
        lanes.append(np.concatenate(shuffled)[:used].reshape(plan.steps, -1))
    return np.stack(lanes, axis=1)
