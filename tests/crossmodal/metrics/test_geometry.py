"""The five figures of an embedding: closed forms, limits, invariances."""

import math

import pytest
import torch
import torch.nn.functional as F

from crossmodal.metrics import diagnostics
from modalities.common.random import generator

RANDOM = torch.randn(600, 128, generator=generator("diagnostics"))
LABEL = torch.arange(600) % 7


def test_alignment_and_uniformity_at_their_ends() -> None:
    assert diagnostics.alignment(RANDOM, RANDOM) == pytest.approx(0, abs=1e-12)
    assert diagnostics.alignment(RANDOM, -RANDOM) == pytest.approx(4)
    assert diagnostics.uniformity(RANDOM) == pytest.approx(-3.94, abs=0.02)
    assert diagnostics.uniformity(torch.ones(9, 4)) == pytest.approx(0, abs=1e-12)


def test_uniformity_is_over_all_different_pairs_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = math.log(torch.exp(-2 * torch.pdist(F.normalize(RANDOM.double(), dim=1)).square()).mean())
    assert diagnostics.uniformity(RANDOM) == pytest.approx(expected)
    monkeypatch.setattr(diagnostics, "SCORES", 1000)
    assert diagnostics.uniformity(RANDOM) == pytest.approx(expected)


def test_alignment_within_classes_is_the_mean_over_their_pairs() -> None:
    unit = F.normalize(RANDOM.double(), dim=1)
    expected = sum(torch.pdist(unit[own == LABEL]).square().mean().item() for own in range(7)) / 7
    assert diagnostics.intra_class_alignment(RANDOM, LABEL) == pytest.approx(expected)
    label = LABEL.clone()
    label[0], label[LABEL > 0] = 9, -1  # a class of one, and samples without a class
    left = torch.pdist(unit[LABEL == 0][1:]).square().mean().item()
    assert diagnostics.intra_class_alignment(RANDOM, label) == pytest.approx(left)
    assert math.isnan(diagnostics.intra_class_alignment(RANDOM, torch.full((600,), -1)))


def test_instances_are_found_by_themselves_and_by_chance_among_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnostics.instance_accuracy(RANDOM, RANDOM) == 1
    strangers = torch.randn(600, 128, generator=generator("strangers"))
    assert diagnostics.instance_accuracy(RANDOM, strangers) < 5 / 600
    near = RANDOM + 0.8 * strangers
    whole = diagnostics.instance_accuracy(RANDOM[:90], near[:90])
    monkeypatch.setattr(diagnostics, "SCORES", 1000)
    assert diagnostics.instance_accuracy(RANDOM[:90], near[:90]) == whole > 0.9


def test_figures_do_not_change_when_everything_turns() -> None:
    turn, _ = torch.linalg.qr(torch.randn(128, 128, generator=generator("turn")))
    crops = (RANDOM + 0.5 * RANDOM.roll(1, 0), RANDOM - 0.5 * RANDOM.roll(2, 0))
    before = diagnostics.diagnose(RANDOM, crops, LABEL)
    after = diagnostics.diagnose(RANDOM @ turn, (crops[0] @ turn, crops[1] @ turn), LABEL)
    assert before == pytest.approx(after, abs=1e-5)
    assert before.keys() == {"alignment", "uniformity", "instance", "intra_class"}
    assert "intra_class" not in diagnostics.diagnose(RANDOM, crops, torch.full((600,), -1))


def test_the_number_of_neighbours_is_chosen_on_training_rows() -> None:
    """Pairs of twins in large mixed clouds: one neighbour knows, a hundred do not."""
    rows = torch.randn(80, 16, generator=generator("twins")).repeat_interleave(4, 0)
    label = (torch.arange(80) % 2).repeat_interleave(4)
    train, test = torch.arange(320) % 4 != 3, torch.arange(320) % 4 == 3
    found = diagnostics.best_neighbours(rows[train], label[train], rows[test], label[test])
    assert found == 1


def test_the_number_of_neighbours_is_not_chosen_on_test_rows() -> None:
    """Training rows lie in two clusters of one class each; the test rows lie on the few rows that are mislabelled."""
    angle = torch.tensor([0.0, 1.5]).repeat_interleave(60) + torch.linspace(0, 0.2, 120)
    train, label = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([0, 1]).repeat_interleave(60)
    wrong = torch.arange(3, 120, 11)  # in both halves of the training rows
    label[wrong] = 1 - label[wrong]
    assert diagnostics.best_neighbours(train, label, train[wrong], label[wrong]) < 0.2
    assert (diagnostics.neighbours.classify(train, label, train[wrong], neighbours=1) == label[wrong]).all()


def test_of_one_point_no_instance_is_told_apart() -> None:
    assert diagnostics.instance_accuracy(torch.ones(6, 3), torch.ones(6, 3)) == 0
