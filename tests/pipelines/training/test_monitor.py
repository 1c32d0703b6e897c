"""Encoders that are judged while they train: by which pairs, in which mode, and that nothing of them changes."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.data.reader import join, open_view, read_pair, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Encoder
from crossmodal.evaluation.common.diagnosis import diagnose_encoder
from pipelines.training.monitor import Monitor

CPU = torch.device("cpu")


@pytest.fixture
def seen(synthetic: Path) -> tuple[Shards, View, Encoder]:
    """Pairs, a view, and an encoder with batch norm in training mode, whose statistics are not those of a batch."""
    shards = Shards.open(synthetic / "test")
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=2, norm="batch").train()
    return shards, open_view(shards, "rgb", size=16), encoder


def test_neighbours_are_the_other_half_of_the_pairs_seen_in_eval_mode(seen: tuple[Shards, View, Encoder]) -> None:
    shards, view, encoder = seen
    picked, labels = torch.arange(1, 25), shards.labels()[1:25]
    before = copy.deepcopy(encoder.state_dict())
    monitor = SimpleNamespace(shards=shards, device=CPU, config=SimpleNamespace(monitor=SimpleNamespace(neighbours=1)))
    found = Monitor._neighbours(cast(Monitor, monitor), encoder, view, picked, labels)
    assert encoder.training and all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())

    batch = to_batch(join([read_pair(shards, {"view": view}, index) for index in picked.tolist()]), {"view": view}, CPU)
    rows = torch.nn.functional.normalize(encoder.eval()(batch.inputs["view"]).embedding.detach(), dim=1)
    right = []
    for query in range(1, 24, 2):
        nearest = max(range(0, 24, 2), key=lambda other: float(rows[query] @ rows[other]))
        right.append(labels[nearest].item() == labels[query].item())
    assert found == pytest.approx(sum(right) / 12) and 0 < sum(right) < 12


@pytest.mark.parametrize("training", [True, False])
def test_two_looks_at_a_pair_differ_and_the_encoder_stays_as_it_is(
    seen: tuple[Shards, View, Encoder], training: bool
) -> None:
    shards, view, encoder = seen
    encoder.train(training)
    before = copy.deepcopy(encoder.state_dict())
    figures = diagnose_encoder(encoder, view, shards, [*range(12)], crop=Crop(scale=(0.2, 0.5)), device=CPU)
    assert figures["alignment"] > 1e-4  # 0 where both looks are one
    assert encoder.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
