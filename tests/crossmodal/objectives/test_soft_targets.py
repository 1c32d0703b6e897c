"""Objectives on class probabilities: DKD and DIST in plain loops, what they ignore, refusals."""

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator

ROWS, CLASSES = 6, 5
SPEC = Spec(3, (), CLASSES)
LABELS = torch.tensor([2, 0, -1, 4, 4, -1])


def logits(name: str) -> Tensor:
    return 3 * torch.randn(ROWS, CLASSES, dtype=torch.float64, generator=generator("soft targets", name))


def loss(objective: Objective, ours: Tensor, theirs: Tensor, label: Tensor = LABELS) -> Tensor:
    embedding = torch.zeros(len(ours), 3, dtype=torch.float64)
    batch = Batch({}, torch.arange(len(ours)), label[: len(ours)])
    return objective(Features(embedding, (), ours), Features(embedding, (), theirs), batch).loss


def build(name: str, **options: object) -> Objective:
    return OBJECTIVES.get(name)(SPEC, SPEC, 40, **options)


def softmax(row: list[float]) -> list[float]:
    return [math.exp(value) / sum(math.exp(other) for other in row) for value in row]


def divergence(theirs: list[float], ours: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("name", ["cross_entropy", "dkd"])
def test_parts_with_unequally_many_labels_have_the_mean_of_the_whole(name: str) -> None:
    ours, theirs, label = logits("ours"), logits("theirs"), torch.tensor([2, 0, 1, 4, -1, -1])
    objective, parts = build(name), []
    for part in (slice(0, 3), slice(3, 6)):
        one, other = (Features(torch.zeros(3, 3), (), item[part]) for item in (ours, theirs))
        parts.append(objective(one, other, Batch({}, torch.arange(6)[part], label[part], labelled=2.0)).loss)
    torch.testing.assert_close(torch.stack(parts).mean(), loss(objective, ours, theirs, label))


# --- cross_entropy ---


def test_balanced_cross_entropy_weighs_each_row_by_n_over_classes_times_n_of_its_class() -> None:
    counts = [10, 30, 40, 0, 20]  # of the training pairs: one class has none
    objective = build("cross_entropy", class_weights="balanced")
    objective.count_classes(counts)
    rows = [(softmax(row), label) for row, label in zip(logits("ours").tolist(), LABELS.tolist(), strict=True)]
    losses = [-math.log(shares[label]) * 100 / (4 * counts[label]) for shares, label in rows if label >= 0]
    assert loss(objective, logits("ours"), logits("theirs")).item() == pytest.approx(sum(losses) / len(losses))
    weights = compute_class_weight("balanced", classes=np.array([0, 1, 2, 4]), y=np.repeat(range(5), counts))
    assert objective.class_weight.tolist() == pytest.approx([*weights[:3], 0, weights[3]])
    assert "class_weight" not in objective.state_dict()  # a checkpoint has none: they follow from the pairs


def test_cross_entropy_weighs_all_rows_alike_unless_it_is_balanced() -> None:
    objective = build("cross_entropy")
    objective.count_classes([10, 30, 40, 0, 20])
    assert objective.class_weight is None


# --- dkd ---


def test_dkd_equals_its_formula_in_loops_over_labelled_rows() -> None:
    found = loss(build("dkd", target=0.5, others=3.0, temperature=2.0), logits("ours"), logits("theirs"))
    each = []
    for mine, other, label in zip(logits("ours").tolist(), logits("theirs").tolist(), LABELS.tolist(), strict=True):
        if label < 0:
            continue
        p, q = (softmax([value / 2 for value in row]) for row in (other, mine))
        binary = divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        rest = [[value / (1 - row[label]) for j, value in enumerate(row) if j != label] for row in (p, q)]
        each.append(4 * (0.5 * binary + 3.0 * divergence(*rest)))
    assert found.item() == pytest.approx(sum(each) / 4, rel=1e-12)


def test_dkd_weighted_by_what_the_teacher_leaves_to_the_rest_is_kd() -> None:
    """How the paper arrives at it, row by row."""
    label = torch.arange(ROWS) % CLASSES
    for row in range(ROWS):
        ours, theirs, own = (item[row : row + 1] for item in (logits("ours"), logits("theirs"), label))
        left = 1 - float((theirs / 4).softmax(1)[0, own])
        torch.testing.assert_close(
            loss(build("dkd", others=left), ours, theirs, own), loss(build("kd"), ours, theirs, own)
        )


def test_dkd_without_labels_is_zero_and_pulls_nothing() -> None:
    ours = logits("ours").requires_grad_()
    found = loss(build("dkd"), ours, logits("theirs"), torch.full((ROWS,), -1))
    assert found.item() == 0
    assert torch.equal(torch.autograd.grad(found, ours)[0], torch.zeros_like(ours))


def test_dkd_is_finite_where_both_are_sure() -> None:
    ours = (500 * torch.nn.functional.one_hot(LABELS.clamp(min=0), CLASSES).float()).requires_grad_()
    found = loss(build("dkd", temperature=0.1), ours, -ours.detach())
    assert torch.isfinite(found)
    assert torch.isfinite(torch.autograd.grad(found, ours)[0]).all()


def test_of_two_classes_dkd_has_nothing_within_the_rest() -> None:
    two = Spec(3, (), 2)
    objective = OBJECTIVES.get("dkd")(two, two, 40, others=100.0)
    ours, theirs, label = logits("ours")[:, :2], logits("theirs")[:, :2], torch.arange(ROWS) % 2
    torch.testing.assert_close(
        loss(objective, ours, theirs, label), loss(OBJECTIVES.get("kd")(two, two, 40), ours, theirs, label)
    )


def test_dkd_says_that_it_needs_labels() -> None:
    assert build("dkd").needs_labels


# --- dist ---


def pearson(ours: list[float], theirs: list[float]) -> float:
    mine, other = ([value - sum(row) / len(row) for value in row] for row in (ours, theirs))
    product = sum(a * b for a, b in zip(mine, other, strict=True))
    return product / math.sqrt(sum(a * a for a in mine) * sum(b * b for b in other))


def test_dist_equals_its_formula_in_loops() -> None:
    ours, theirs = ([softmax([value / 2 for value in row]) for row in logits(name).tolist()]
                    for name in ("ours", "theirs"))  # fmt: skip
    rows = sum(1 - pearson(*both) for both in zip(ours, theirs, strict=True)) / ROWS
    columns = sum(1 - pearson(*map(list, both)) for both in zip(zip(*ours), zip(*theirs), strict=True)) / CLASSES  # noqa: B905
    objective = build("dist", inter=0.5, intra=3.0, temperature=2.0)
    expected = 4 * (0.5 * rows + 3.0 * columns)
    assert loss(objective, logits("ours"), logits("theirs")).item() == pytest.approx(expected, rel=1e-5)  # the 1e-8


def test_dist_does_not_mind_how_sure_a_student_of_two_classes_is() -> None:
    """With two classes every row correlates perfectly as long as it prefers the same class."""
    two = Spec(3, (), 2)
    objective = OBJECTIVES.get("dist")(two, two, 40, intra=0.0)
    theirs = logits("theirs")[:, :2]
    assert loss(objective, 5 * theirs, theirs).item() == pytest.approx(0, abs=1e-5)
    assert loss(objective, -theirs, theirs).item() == pytest.approx(2 * 2 * 16, abs=1e-4)


def test_in_a_batch_of_one_no_class_correlates() -> None:
    found = loss(build("dist", inter=0.0, intra=1.0, temperature=1.0), logits("ours")[:1], logits("theirs")[:1])
    assert found.item() == 1


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dkd", {"temperature": 0.0}, "dkd needs temperature above 0 .*temperature=0.0"),
        ("dkd", {"target": -1.0}, r"dkd needs .*target=-1\.0"),
        ("dkd", {"others": -1.0}, r"dkd needs .*others=-1\.0"),
        ("dist", {"temperature": -2.0}, r"dist needs temperature above 0 .*temperature=-2\.0"),
        ("dist", {"inter": -1.0}, r"dist needs .*inter=-1\.0"),
        ("dist", {"intra": -1.0}, r"dist needs .*intra=-1\.0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_other_classes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} compares class logits.* a student with 5 and a teacher with 9"):
        OBJECTIVES.get(name)(SPEC, Spec(3, (), 9), 40)


def test_dkd_needs_a_rest() -> None:
    with pytest.raises(ValueError, match=r"dkd separates the label from the rest, .* at least 2 classes, got 1"):
        OBJECTIVES.get("dkd")(Spec(3, (), 1), Spec(3, (), 1), 40)
