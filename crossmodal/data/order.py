"""The order of a run's pairs, planned from the manifest alone: the same for any number of ranks and workers.

An epoch is laid out on a fixed number of *lanes*, each a run of neighbouring pairs; a global batch takes an equal chunk
from every lane, and ranks and workers host lanes. A run that begins at step n sees what it would have seen: the plan is
computed, not replayed.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch

from modalities.common.random import generator


@dataclass(frozen=True)
class Plan:
    """The order of a run's pairs: which indices form the global batch of any step."""

    pairs: int  # in the data set
    batch_size: int  # pairs a step, over all ranks
    seed: int = 0
    lanes: int = 16  # at most; the largest divisor of the batch size up to this is taken
    shuffle_block: int = 8192  # pairs of a lane that are shuffled among one another
    shard_starts: tuple[int, ...] = ()  # whole shards change places; empty: one shard

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.pairs:
            raise ValueError(f"batch_size must be from 1 to the number of pairs, {self.pairs}, got {self.batch_size}")

    @property
    def width(self) -> int:
        """Number of lanes in use."""
        return max(lane for lane in range(1, self.lanes + 1) if self.batch_size % lane == 0)

    @property
    def steps(self) -> int:
        """Steps an epoch; the pairs left over, another few each epoch, wait for the next one."""
        return (self.pairs // self.width) // (self.batch_size // self.width)

    def epoch(self, epoch: int) -> np.ndarray:
        """Indices of an epoch, [steps, lanes, chunk]; no index comes twice."""
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
