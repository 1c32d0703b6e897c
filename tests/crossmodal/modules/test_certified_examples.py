"""What certified examples are made of: which pairs, by which side they are seen, and through which weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from crossmodal.certificates.posterior import GaussianPosterior
from crossmodal.certificates.tuples import Tuples
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop
from crossmodal.encoders import Encoder, Features, Leave, Spec, stay
from crossmodal.modules.certified_risk import Examples
from crossmodal.modules.certifying import ExampleViews
from crossmodal.objectives import Batch
from modalities.common.random import generator


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("certified", name), dtype=torch.float64)


@pytest.mark.parametrize("task", [Tuples(negatives=3), Tuples("pair", negatives=5, block=1)])
def test_an_anchor_of_one_side_is_compared_with_the_other_side_alone(task: Tuples) -> None:
    ours, theirs = draw("ours", 7, task.pairs, 6), draw("theirs", 7, task.pairs, 6)
    first = 1 if task.positives == "class" else 0
    expected = []
    for anchor, others in zip(ours[:, 0], theirs, strict=True):
        positive = others[first : first + task.block].mean(0)
        starts = [first + task.block * (1 + number) for number in range(task.negatives)]
        margins = [anchor @ (positive - others[start : start + task.block].mean(0)) for start in starts]
        expected.append(sum(margin.item() <= 0 for margin in margins) / task.negatives)
    assert 0 < sum(expected) < 7
    assert task.certified(ours, theirs).tolist() == pytest.approx(expected)


def test_classes_of_examples_have_the_frequencies_of_the_labels_and_few_pairs_are_left_over() -> None:
    labels = torch.tensor([0] * 1200 + [1] * 400 + [2] * 400)
    found = Tuples(negatives=1, block=1).disjoint(labels, seed=0)
    shares = labels[found[:, 0]].bincount(minlength=3) / len(found)
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.2, 0.2]), atol=0.06, rtol=0)  # 3 deviations of 600 draws
    assert found.numel() > 0.97 * len(labels)
    counts = [len(Tuples().disjoint(torch.arange(1000) % 10, seed)) for seed in range(8)]
    assert sum(counts) / 8 > 82  # of the 90 that 1000 pairs could make, were classes free to choose


def test_examples_of_a_data_set_share_no_pair(synthetic: Path) -> None:
    shards = Shards.open(synthetic / "train")
    views = {"rgb": open_view(shards, "rgb", size=16)}
    examples = Examples.plan(shards, views, Tuples(negatives=1, block=1), at_once=3)
    rows = examples.rows
    assert len(rows.unique()) == rows.numel() == 3 * examples.count > 60
    anchors, positives = shards.labels()[rows[..., 0]], shards.labels()[rows[..., 1]]
    assert torch.equal(anchors, positives)


def test_every_pass_sees_other_windows_of_the_same_pairs(synthetic: Path) -> None:
    shards = Shards.open(synthetic / "test")
    views = {"rgb": open_view(shards, "rgb", size=16)}
    examples = Examples.plan(
        shards, views, Tuples("pair", negatives=1, block=1), at_once=3, crop=Crop(scale=(0.2, 0.6))
    )
    first, again = examples._parts([0, len(examples.rows)])
    assert torch.equal(first.index, again.index)
    assert not any(torch.equal(*both) for both in zip(first.adapted["rgb"], again.adapted["rgb"], strict=True))


def test_each_side_is_seen_by_its_own_view() -> None:
    batch = Batch({"rgb": draw("rgb", 3, 4), "depth": draw("depth", 3, 4)}, torch.arange(3), torch.zeros(3).long())
    ours, theirs = ExampleViews("rgb", "depth").embed(lambda inputs: Features(2 * inputs, (), None), batch)
    torch.testing.assert_close(ours, 2 * batch.inputs["rgb"].float())
    torch.testing.assert_close(theirs, 2 * batch.inputs["depth"].float())


class Dropping(Encoder):
    """An encoder with dropout, in training mode as every new module."""

    def __init__(self) -> None:
        super().__init__()
        self.spec, self.layer, self.dropout = Spec(4, (), 0), nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, batch: Tensor, leave: Leave = stay) -> Features:
        """A layer and dropout."""
        return Features(self.dropout(self.layer(batch)), (), None)


def test_the_weights_alone_are_drawn_and_no_dropout() -> None:
    encoder, rows = Dropping(), draw("rows", 5, 4).float()
    network = GaussianPosterior(encoder, std=0.1).train()
    weights = network.draw(generator("weights"))
    expected = rows @ weights["layer.weight"].T + weights["layer.bias"]
    torch.testing.assert_close(network(rows, weights).embedding, expected)
