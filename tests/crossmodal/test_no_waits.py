"""A training step never waits for a GPU: with tensors that have no values, what would need one raises.

The tensors are said to be on a GPU, so the code takes the paths that it takes there.
"""

from itertools import permutations
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from waits import GPU, CopyError, Watch, gpu_without_values

from crossmodal import ENCODERS, MULTIVIEW, OBJECTIVES
from crossmodal.contrast.bank import Bank
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Pool
from crossmodal.data.reader import SampleBatch, join
from crossmodal.encoders import Features, Spec
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.multiview import Views
from crossmodal.objectives import Batch
from modalities import MODALITIES
from modalities.common import colour
from pipelines.training.progress import MetricAccumulator

ROWS, PAIRS = 6, 300
MAPS = ((4, 8, 8), (8, 4, 4))
SPEC = Spec(dim=16, maps=MAPS, classes=5, stem=(4, 8, 8), preactivations=True)
QUEUE, DRAWN, LABEL = (
    Negatives("queue", count=64),
    Negatives("bank", 8, draw="sample"),
    Negatives("bank", 8, apart="label"),
)
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {} for name in OBJECTIVES.names()},
    "pixel_cross_entropy": {"classes": 5},
    "crd both": {"directions": "both"},
    "crd drawn": {"directions": "both", "negatives": DRAWN},
    "crd apart": {"negatives": LABEL},
    "crd queue": {"negatives": QUEUE},
    "crd published": {"compat": "repdistiller"},
    "crd running": {"z": "running"},
    "crd learned": {"z": "learned"},
    "infonce label": {"positives": "label"},
    "infonce queue": {"negatives": QUEUE},
    "infonce drawn": {"negatives": DRAWN},
    "sigmoid drawn": {"negatives": DRAWN},
}
MANY: dict[str, dict[str, Any]] = {
    **{name: {} for name in MULTIVIEW.names()},
    "infonce queue": {"negatives": QUEUE},
    "infonce bank": {"negatives": LABEL},
    "nce drawn": {"negatives": DRAWN},
}


def to_gpu(module: nn.Module) -> Any:
    """A module of the host with its weights on the GPU, and what its pools remember."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            part._parameters[name] = nn.Parameter(torch.empty_like(weight, device=GPU), weight.requires_grad)
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = torch.empty_like(buffer, device=GPU)
        if isinstance(part, Pool):
            part.remembered |= {
                name: torch.empty_like(item, device=GPU)
                for name, item in part.remembered.items()
                if name not in part.in_host_memory
            }
    return module


def features() -> Features:
    maps = tuple(torch.randn(ROWS, *size) for size in MAPS)
    return Features(
        torch.randn(ROWS, SPEC.dim), maps, torch.randn(ROWS, SPEC.classes), torch.randn(ROWS, 4, 8, 8), maps
    )


def batch(**inputs: Tensor) -> Batch:
    none = torch.zeros(ROWS, dtype=torch.int64)
    return Batch({"labels": torch.zeros(ROWS, 1, 8, 8), **inputs}, torch.arange(ROWS), none, 3, none)


@pytest.mark.parametrize("filling", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_objective_and_what_it_remembers(name: str, filling: bool) -> None:
    kind = OBJECTIVES.get(name.split(maxsplit=1)[0])
    objective = kind(SPEC, SPEC if kind.uses_teacher else None, PAIRS, **OPTIONS[name])
    with (
        gpu_without_values(),
        mock.patch.object(Bank, "is_filling", filling and "published" not in name),
        mock.patch.object(Bank, "_look"),  # looks a few times a pass until all rows are written
    ):
        to_gpu(objective)
        with GPU:
            student, teacher, given = features(), features(), batch()
        student.embedding.requires_grad_()
        with Watch() as watch:
            outcome = objective(student, teacher, given)
            if outcome.memo:
                objective.remember(*outcome.memo)
            MetricAccumulator(frozenset()).add([{"loss": outcome.loss.detach()}], ROWS)
    assert len(watch.names) > 5


@pytest.mark.parametrize("name", MANY)
def test_a_multiview_objective_and_what_it_remembers(name: str) -> None:
    with gpu_without_values(), mock.patch.object(Bank, "is_filling", False), mock.patch.object(Bank, "_look"):
        with GPU:
            pairings = tuple(permutations(range(3), 2))
            objective = to_gpu(MULTIVIEW.get(name.split(maxsplit=1)[0])(16, pairings, PAIRS, **MANY[name]))
            rows, none = torch.randn(3, ROWS, 16), torch.zeros(ROWS, dtype=torch.int64)
        with Watch() as watch:
            queries = F.normalize(rows.requires_grad_(), dim=2)
            outcome = objective(Views(queries, queries, pairings, torch.arange(ROWS, device=GPU), none, seed=3))
            if outcome.memo:
                objective.remember(*outcome.memo)
    assert len(watch.names) > 5


@pytest.mark.parametrize("name", MODALITIES.names())
def test_the_augmentation_of_a_modality(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "_axes", lambda *_: (torch.eye(3, device=GPU), torch.eye(3, device=GPU)))  # once a run
    modality = MODALITIES.get(name)()
    draws = modality.draw(torch.Generator())
    with gpu_without_values():
        with GPU:
            adapted, drawn = torch.rand(ROWS, *modality.shape), torch.rand(ROWS, *draws.shape)
        with Watch() as watch:
            modality.normalise(modality.augment(adapted, drawn))
    assert watch.names or modality.classes


@pytest.mark.parametrize("name", ["resnet", "efficientnet_lite"])
def test_a_transfer_of_several_losses(name: str) -> None:
    student = ENCODERS.get(name)((1, 32, 32), 0)
    kinds = {each: OBJECTIVES.get(each)(student.spec, SPEC, PAIRS) for each in ("crd", "infonce", "rkd")}
    module = Transfer(student, "depth", {each: Term(loss, 1.0, "rgb") for each, loss in kinds.items()})
    with gpu_without_values(), mock.patch.object(Bank, "is_filling", False), mock.patch.object(Bank, "_look"):
        to_gpu(module)
        with GPU:
            given, seen = batch(depth=torch.randn(ROWS, 1, 32, 32)), features()
        with Watch() as watch:
            losses = module(given, {"rgb": seen})
            module.remember([losses])
            MetricAccumulator(frozenset({"loss"})).add([losses.figures()], ROWS)
    assert len(watch.names) > 50


def test_what_waits_is_found() -> None:
    """So that the tests above can fail."""
    with gpu_without_values(), Watch():
        rows = torch.ones(3, 3, device=GPU)
        for wait in (rows[0, 0].item, rows.tolist, lambda: bool(rows.sum() > 1)):
            with pytest.raises(DataDependentOutputException):
                wait()
        for wait in (rows.nonzero, lambda: rows[rows > 0]):
            with pytest.raises(DynamicOutputShapeException):
                wait()
        for copy in (rows.cpu, lambda: rows.new_tensor(3.0), lambda: rows[torch.tensor([1])]):
            with pytest.raises(CopyError):
                copy()
        assert (rows * torch.tensor(2.0)).device == GPU  # a number of the host goes with the operator


def test_a_batch_on_a_gpu_is_not_asked_for_its_labels() -> None:
    label = torch.tensor([3, -1, 0])
    pieces = [SampleBatch({"depth": torch.ones(3, 1, 4, 4)}, {}, torch.arange(3), label, label) for _ in range(2)]
    sent = join([piece.send(torch.device("meta")) for piece in pieces])
    assert sent.label.is_meta and sent.adapted["depth"].is_meta
    with pytest.raises(RuntimeError, match="meta tensors"):
        (sent.label >= 0).sum().item()
    assert sent.labelled == join(pieces).labelled == 4
    assert sent.each(lambda tensor: tensor[:2]).counted is None  # other pairs, another count
