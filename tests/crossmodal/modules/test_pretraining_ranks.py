"""Two ranks equal one with the joint batch where gradients are handed out by hand, and where encoders follow slowly."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed
from pretrained import build, build_local, gradients, joint
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from crossmodal.contrast.options import Negatives
from crossmodal.distributed import gather
from crossmodal.modules.base import TrainingModule
from crossmodal.objectives import Batch

ROWS, RANKS, STEPS = 8, 2, 2
QUEUE = Negatives("queue", count=10)
VARIANTS: dict[str, dict[str, object]] = {
    "simclr": {},
    "simclr none": {"norm": "none"},
    "simclr chunk": {"chunk": 3},
    "simclr chunk none": {"chunk": 3, "norm": "none"},
    "moco queue": {"momentum": 0.9, "negatives": QUEUE},
    "moco queue chunk": {"momentum": 0.9, "negatives": QUEUE, "chunk": 3},
    "moco predicted": {"momentum": 0.9, "predicted": True},
    "local group": {"block": False, "unit": 2},
    "local none": {"block": False, "unit": 2, "norm": "none"},
    "local greedy": {"block": False, "unit": 1},
    "local queue": {"block": False, "unit": 2, "negatives": QUEUE},
}
Found = dict[str, torch.Tensor]


def build_variant(name: str) -> TrainingModule:
    kind, options = name.partition(" ")[0], VARIANTS[name]
    return build_local(**options) if kind == "local" else build("rgb", **options)  # a block has batch norm


def cut(batch: Batch, rows: slice) -> Batch:
    inputs = {view: item[rows] for view, item in batch.inputs.items()}
    return Batch(inputs, batch.index[rows], batch.label[rows], batch.seed)


def take_steps(module: TrainingModule, rank: int = 0, ranks: int = 1) -> Found:
    """Steps of two backward passes each, of one with a queue; what they lead to, and how many numbers ranks share."""
    batch = cut(joint("rgb", rows=ROWS), slice(rank * ROWS // ranks, (rank + 1) * ROWS // ranks))
    mirrored = Batch({view: item.flip(3) for view, item in batch.inputs.items()}, batch.index, batch.label, batch.seed)
    parts = [batch] if module.memory() else [mirrored, batch]  # a queue's order is by rank first, then by pass
    model, reduced = module, []
    if ranks > 1:
        model = DistributedDataParallel(module)
        model.register_comm_hook(None, lambda _, bucket: _reduce(bucket, reduced))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimiser.zero_grad()
        losses = []
        for part in parts:
            with model.no_sync() if part is mirrored and ranks > 1 else nullcontext():
                losses.append(model(part))
                (losses[-1].total / len(parts)).backward()
        optimiser.step()
        module.remember(losses)
    loss = gather(losses[-1].total.detach()[None]).mean()
    shared = {"reduced": torch.tensor(sum(reduced))} if ranks > 1 else {}
    return {**module.state_dict(), **gradients(module), **module.memory(), **shared, "loss": loss}


def _reduce(bucket: torch.distributed.GradBucket, reduced: list[int]) -> torch.futures.Future[torch.Tensor]:
    reduced.append(bucket.buffer().numel())
    return allreduce_hook(None, bucket)


def work(rank: int, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.save({name: take_steps(build_variant(name), rank, RANKS) for name in names}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Found]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder, list(VARIANTS)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_equal_one_with_the_joint_batch(name: str, two_ranks: list[dict[str, Found]]) -> None:
    module = build_variant(name)
    alone = take_steps(module)
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    for rank in two_ranks:
        assert rank[name].pop("reduced") == STEPS * trained  # every number once a step
        assert rank[name].keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(rank[name][key], value, atol=1e-7, rtol=1e-7, msg=lambda m, k=key: f"{k}: {m}")
