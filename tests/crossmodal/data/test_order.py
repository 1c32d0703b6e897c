"""The order of pairs: it is that of a plain computation over whole arrays, at any size."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from crossmodal.data.order import Plan
from modalities.common.random import generator


def over_whole_arrays(plan: Plan, epoch: int) -> np.ndarray:
    """Shuffled shards, rolled, cut into lanes, shuffled in blocks: as the first versions computed it."""
    random = generator(plan.seed, epoch, "order")
    bounds = [*plan.shard_starts, plan.pairs] if plan.shard_starts else [0, plan.pairs]
    runs = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    order = np.concatenate([runs[shard] for shard in torch.randperm(len(runs), generator=random).tolist()])
    order = np.roll(order, int(torch.randint(plan.pairs, (), generator=random)))
    lane_pairs, lanes = plan.pairs // plan.width, []
    for lane in range(plan.width):
        run = order[lane * lane_pairs : (lane + 1) * lane_pairs]
        blocks = [run[start : start + plan.shuffle_block] for start in range(0, lane_pairs, plan.shuffle_block)]
        shuffled = [block[torch.randperm(len(block), generator=random).numpy()] for block in blocks]
        used = plan.steps * (plan.batch_size // plan.width)
        lanes.append(np.concatenate(shuffled)[:used].reshape(plan.steps, -1))
    return np.stack(lanes, axis=1)


@pytest.mark.parametrize("plan", [
    Plan(103, 10),
    Plan(103, 103, shard_starts=(0, 50)),
    Plan(1000, 48, seed=3, lanes=8, shuffle_block=30, shard_starts=(0, 10, 10, 400, 999)),
    Plan(1000, 1, shuffle_block=7, shard_starts=(0, 0, 300, 1000, 1000)),
    Plan(50_000, 256, seed=1, shuffle_block=1024, shard_starts=tuple(range(0, 50_000, 700))),
])  # fmt: skip
def test_the_order_is_that_of_a_plain_computation(plan: Plan) -> None:
    for epoch in (0, 5):
        assert plan.epoch(epoch).tolist() == over_whole_arrays(plan, epoch).tolist()


def test_the_order_of_ten_million_pairs_takes_4_bytes_a_pair() -> None:
    assert Plan(10_000, 256).epoch(0).itemsize == 4


def test_equal_plans_have_equal_hashes() -> None:
    one, other = (Plan(100, 10, shard_starts=(0, 50)) for _ in range(2))
    assert one == other and hash(one) == hash(other) and one != Plan(100, 10, shard_starts=(0, 51))
