"""Two ranks equal one rank with the joint batch: losses, gradients, and what is remembered."""

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import PairIds
from crossmodal.distributed import gather, gather_with_gradient, ranks
from crossmodal.encoders import Features, Spec
from crossmodal.modules.base import unreached
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.objectives import Batch
from modalities.common.random import generator

ROWS, PAIRS, RANKS = 8, 30, 2
MAPS = ((4, 4, 4), (8, 2, 2), (16, 1, 1), (32, 1, 1))  # the student's own
TEACHER = Spec(dim=6, maps=MAPS, classes=3, stem=(2, 8, 8), preactivations=True)


def joint() -> tuple[Batch, Features]:
    random = generator("ranks")
    batch = Batch(
        {
            "depth": torch.randn(ROWS, 1, 16, 16, generator=random),
            "labels": torch.randint(-1, 2, (ROWS, 1, 16, 16), generator=generator("ranks", "labels")).float(),
        },
        torch.randperm(PAIRS, generator=random)[:ROWS],
        torch.tensor([0, 1, -1, 2, 0, -1, -1, 1]),  # unequal numbers of labels on the two ranks
        seed=5,
    )
    draw = lambda *size: torch.randn(ROWS, *size, generator=random)  # noqa: E731
    maps = tuple(draw(*size) for size in TEACHER.maps)
    return batch, Features(draw(6), tuple(item.relu() for item in maps), draw(3), draw(2, 8, 8).relu(), maps)


def share(features: Features, rows: slice) -> Features:
    assert features.logits is not None and features.stem is not None
    cut = lambda items: tuple(item[rows] for item in items)  # noqa: E731
    return Features(features.embedding[rows], cut(features.maps), features.logits[rows], features.stem[rows],
                    cut(features.preactivations))  # fmt: skip


SOURCES = ("batch", "gathered", "queue", "bank")
KEPT = {"queue": {"count": 10}, "bank": {"count": 10}}
VARIANTS: dict[str, dict[str, object]] = {
    **{name: {} for name in OBJECTIVES.names()},
    **{
        f"{name} {source}": {"negatives": Negatives(source, draw=draw, **KEPT.get(source, {}))}
        for name in ("crd", "infonce", "sigmoid")
        for source in SOURCES
        for draw in (("shared", "sample", "all") if source == "bank" else ("shared",))
        if source != "batch"  # by its meaning another loss on two ranks
    },
    **{f"crd full {draw}": {"negatives": Negatives(count=10, draw=draw)} for draw in ("shared", "sample", "all")},
    **{
        f"{name} {filled} sharded {draw}": {
            "negatives": Negatives("bank", count=10, draw=draw, place="sharded", apart=apart)
        }
        for name, apart in (("crd", "pair"), ("infonce", "label"))
        for filled in ("filling", "full")
        for draw in ("shared", "sample")
    },
    "crd published sharded": {"compat": "repdistiller", "negatives": Negatives(count=10, place="sharded")},
    "infonce supervised": {"positives": "label"},
    "infonce apart": {"negatives": Negatives("gathered", apart="label")},
    **{
        f"crd both {draw}": {"directions": "both", "negatives": Negatives(count=10, draw=draw)}
        for draw in ("shared", "sample")
    },
    "crd related": {"positive": "related", "negatives": Negatives(count=10)},
    **{f"crd full {z}": {"z": z, "negatives": Negatives(count=10)} for z in ("first", "running", "learned")},
    "ab connected": {"maps": [(0, 1), (1, 0), (2, 3), (3, 2)]},
    "rkd": {"distance": 0.5, "angle": 1.0},  # at its own weights gradients are of some tens, too many for 1e-5
    "dist": {"temperature": 1.0},  # at 4 gradients are of some tens, too
    "cc published": {"compat": "repdistiller"},
    "cc heads": {"heads": "both"},
    "pkt published": {"compat": "repdistiller"},
    "sp maps": {"of": "map"},
    "crd published": {"compat": "repdistiller", "negatives": Negatives(count=10)},
    **{f"nst {kernel}": {"kernel": kernel} for kernel in ("linear", "gaussian")},
    **{f"{name} embedding": {"on": "embedding"} for name in ("fitnet", "vid")},
    "patch": {"dim": 3},  # 8 rows have no more than 7 components
    "patch_contrast": {"dim": 3, "places": 2},
    "patch_contrast pictures": {"dim": 3, "places": 2, "against": "pictures"},
    "at published": {"compat": "repdistiller", "maps": [(0, 1), (3, 2)]},
}


def build(variant: str) -> Transfer:
    torch.manual_seed(0)
    name, options = variant.partition(" ")[0], VARIANTS[variant]
    kind = OBJECTIVES.get(name)
    student = ENCODERS.get("convnet")((1, 16, 16), 3 if kind.needs_logits else 0, width=4, norm="none")
    objective = kind(student.spec, TEACHER if kind.uses_teacher else None, PAIRS, **options)
    if "full" in variant:  # a bank of whose rows none is missing
        for pool in objective.sides.pools.values():
            rows = torch.randn(PAIRS, 128, generator=generator("full"))
            pool.remember(F.normalize(rows, dim=1), PairIds(torch.arange(PAIRS), torch.full((PAIRS,), -1)))
            assert not pool.is_filling
    if objective.needs_calibration:  # each rank adds its own rows
        rank, count = ranks()
        objective.calibrate(share(joint()[1], slice(rank * ROWS // count, (rank + 1) * ROWS // count)))
        objective.finish_calibration()
    return Transfer(student, "depth", {name: Term(objective, 0.7, "rgb" if kind.uses_teacher else None)})


def take_step(module: Transfer, rank: int = 0, ranks: int = 1) -> dict[str, torch.Tensor]:
    """Forward, backward and remember; the gradients, loss and memory that come of it."""
    batch, teacher = joint()
    mine = slice(rank * ROWS // ranks, (rank + 1) * ROWS // ranks)
    inputs = {name: item[mine] for name, item in batch.inputs.items()}
    batch = Batch(inputs, batch.index[mine], batch.label[mine], batch.seed)
    teacher = share(teacher, mine)
    for weight in unreached(module, module(batch, {"rgb": teacher}).total):
        weight.requires_grad_(False)
    model = DistributedDataParallel(module) if ranks > 1 else module
    found: dict[str, torch.Tensor] = {}
    for step in ("first", "second"):  # what the first step remembers is in the second one's loss
        losses = model(batch, {"rgb": teacher})
        module.zero_grad()
        losses.total.backward()
        module.remember([losses])
        found[f"{step} loss"] = gather(losses.total.detach()[None]).mean()
    found |= {
        f"gradient of {name}": parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    return {**found, **{name: whole(item) for name, item in module.memory().items()}}


def whole(item: torch.Tensor) -> torch.Tensor:
    return item.full_tensor() if isinstance(item, DTensor) else item


def work(rank: int, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.save({name: take_step(build(name), rank, RANKS) for name in names}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (folder, list(VARIANTS)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_equal_one_with_the_joint_batch(
    name: str, two_ranks: list[dict[str, dict[str, torch.Tensor]]]
) -> None:
    alone = take_step(build(name))
    assert len(alone) > 3
    for rank in two_ranks:
        assert rank[name].keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(rank[name][key], value, atol=1e-5, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_one_rank_gathers_itself() -> None:
    rows = torch.randn(3, 2)
    assert gather(rows) is rows
    assert gather_with_gradient(rows) is rows
