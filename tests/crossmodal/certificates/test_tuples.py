"""Contrastive examples: their losses against loops, which pairs make them, what they refuse."""

import math

import pytest
import torch

from crossmodal.certificates.tuples import Tuples, hinge, logistic, margins, simclr, zero_one
from crossmodal.metrics.mean_classifier import class_means, mean_classifier
from modalities.common.random import generator

LABELS = torch.tensor([0, 1, 2, 3] * 30)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator("tuples"), dtype=torch.float64)


def test_losses_follow_their_formulas() -> None:
    anchors, positives, negatives = draw(5, 7), draw(5, 2, 7), draw(5, 3, 2, 7)
    found = margins(anchors, positives, negatives)
    for row in range(5):
        own = [float(anchors[row] @ (positives[row].mean(0) - negatives[row, i].mean(0))) for i in range(3)]
        assert found[row].tolist() == pytest.approx(own)
        assert logistic(found)[row].item() == pytest.approx(math.log2(1 + sum(math.exp(-v) for v in own)))
        assert hinge(found)[row].item() == pytest.approx(max(0, 1 + max(-v for v in own)))
        assert zero_one(found)[row].item() == pytest.approx(sum(v <= 0 for v in own) / 3)


def test_what_is_trained_is_never_below_what_is_certified() -> None:
    found = 3 * draw(200, 4)
    assert (logistic(found) >= zero_one(found)).all() and (hinge(found) >= zero_one(found)).all()
    assert torch.equal(zero_one(torch.zeros(1, 2)), torch.ones(1))  # a tie is an error


def test_simclr_follows_its_formula_and_keeps_its_range() -> None:
    ours, theirs, task = draw(3, 4, 6), draw(3, 4, 6), Tuples("pair", "simclr", negatives=3, block=1, scale=5.0)
    for batch, loss in enumerate(simclr(ours, theirs, 0.2)):
        own = []
        for i in range(4):
            cosines = [float(torch.cosine_similarity(ours[batch, i], theirs[batch, j], dim=0)) for j in range(4)]
            own.append(-math.log(math.exp(5 * cosines[i]) / sum(math.exp(5 * c) for c in cosines)))
        assert loss.item() == pytest.approx(sum(own) / 4)
    assert task.greatest == pytest.approx(10 + math.log(4))
    worst = torch.stack([torch.tensor([[1.0, 0]]), torch.tensor([[-1.0, 0]])], dim=1)
    assert float(simclr(worst, worst.flip(1), 0.2)) <= task.greatest
    assert torch.equal(task.certified(ours, theirs), simclr(ours, theirs, 0.2))


@pytest.mark.parametrize("task", [Tuples(), Tuples(negatives=1, block=1), Tuples("pair", negatives=3, block=1)])
def test_certified_examples_share_no_pair_and_are_of_their_classes(task: Tuples) -> None:
    rows = task.disjoint(LABELS, seed=3)
    assert rows.unique().numel() == rows.numel() and rows.shape[1] == task.pairs
    assert len(rows) >= 0.7 * len(LABELS) // task.pairs
    assert torch.equal(rows, task.disjoint(LABELS, seed=3)) and not torch.equal(rows, task.disjoint(LABELS, seed=4))
    if task.positives == "class":
        of = LABELS[rows]
        assert (of[:, : 1 + task.block] == of[:, :1]).all()
        for number in range(task.negatives):
            block = of[:, 1 + task.block + number * task.block :][:, : task.block]
            assert (block == block[:, :1]).all()


def test_pairs_without_a_class_are_in_no_example_of_classes() -> None:
    labels = LABELS.clone()
    labels[::2] = -1
    assert (labels[Tuples().disjoint(labels, seed=0)] >= 0).all()


@pytest.mark.parametrize("task", [Tuples(), Tuples("pair", negatives=3, block=1)])
def test_examples_of_a_training_batch_are_of_their_classes(task: Tuples) -> None:
    labels = LABELS[:24]
    rows, positives, negatives = task.within(torch.arange(len(labels)), labels, seed=1)
    assert positives.shape == (len(rows), task.block) and negatives.shape == (len(rows), task.negatives, task.block)
    assert (negatives != rows[:, None, None]).all()
    if task.positives == "pair":
        assert torch.equal(positives[:, 0], rows)
    else:
        assert (labels[positives] == labels[rows][:, None]).all() and (positives != rows[:, None]).all()
        assert (positives[:, 0] != positives[:, 1]).all()
        assert (labels[negatives] == labels[negatives[:, :, :1]]).all()


def test_pairs_without_a_class_are_no_class_in_a_training_batch() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1, -1])
    for seed in range(20):
        rows, positives, negatives = Tuples(negatives=1, block=1).within(torch.arange(len(labels)), labels, seed)
        assert all((labels[each] >= 0).all() for each in (rows, positives, negatives))


def test_anchors_of_too_rare_a_class_have_no_example_and_none_is_no_loss() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    rows, *_ = Tuples(negatives=1).within(torch.arange(len(labels)), labels, seed=0)
    assert 3 not in rows.tolist()
    loss, risk = Tuples().trained(draw(3, 4), draw(3, 4), torch.arange(3), torch.tensor([0, 1, 2]), seed=0)
    assert loss == risk == 0


def test_a_training_loss_is_the_mean_over_the_examples_of_its_batch() -> None:
    task, rows, labels = Tuples(scale=0.5), draw(24, 5), LABELS[:24]
    loss, risk = task.trained(rows, rows, torch.arange(len(rows)), labels, seed=1)
    anchors, positives, negatives = task.within(torch.arange(len(labels)), labels, seed=1)
    found = margins(rows[anchors], rows[positives], rows[negatives]) * 0.5
    assert loss.item() == pytest.approx(logistic(found).mean().item())
    assert risk.item() == pytest.approx(zero_one(found).mean().item())


def test_certified_reads_anchor_positives_and_negatives_in_their_places() -> None:
    ours, theirs = draw(4, 11, 6), draw(4, 11, 6)
    found = Tuples().certified(ours, theirs)
    expected = zero_one(margins(ours[:, 0], theirs[:, 1:3], theirs[:, 3:].reshape(4, 4, 2, 6)))
    assert torch.equal(found, expected)
    pair = Tuples("pair", negatives=2, block=1)
    expected = zero_one(margins(ours[:, 0], theirs[:, :1], theirs[:, 1:3, None]))
    assert torch.equal(pair.certified(ours[:, :3], theirs[:, :3]), expected)


@pytest.mark.parametrize(("options", "words"), [
    ({"negatives": 0}, "at least 1"),
    ({"scale": math.inf}, "scale above 0"),
    ({"positives": "pair"}, "block must be 1"),
    ({"loss": "simclr"}, "not its class"),
])  # fmt: skip
def test_what_is_no_example_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Tuples(**options)  # type: ignore[arg-type]


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="6 pairs are too few for one example of 11"):
        Tuples().disjoint(LABELS[:6], seed=0)


# --- mean classifier ---


def test_the_mean_classifier_follows_loops() -> None:
    rows, labels = draw(60, 5), LABELS[:60]
    test, truth = draw(120, 5)[60:], LABELS[60:]
    means = class_means(rows, labels)
    assert torch.allclose(means[2], rows[labels == 2].mean(0))
    found = mean_classifier(means, test, truth)
    scores = [[float(row @ mean) for mean in means] for row in test]
    hits = [max(range(4), key=row.__getitem__) == label for row, label in zip(scores, truth.tolist(), strict=True)]
    assert found["top1"] == pytest.approx(sum(hits) / len(hits)) and found["top5"] == 1.0
    pairs = []
    for one in range(4):
        for other in range(one + 1, 4):
            told = [row[label] > row[one + other - label] for row, label in zip(scores, truth.tolist(), strict=True)
                    if label in (one, other)]  # fmt: skip
            pairs.append(sum(told) / len(told))
    assert found["avg2"] == pytest.approx(sum(pairs) / 6)


def test_few_shots_are_of_their_class_and_their_seed() -> None:
    rows = torch.nn.functional.one_hot(LABELS, 4).double()
    assert torch.equal(class_means(rows, LABELS, shots=5), torch.eye(4, dtype=torch.float64))
    many = draw(120, 5)
    assert torch.equal(class_means(many, LABELS, shots=5), class_means(many, LABELS, shots=5))
    assert not torch.equal(class_means(many, LABELS, shots=5), class_means(many, LABELS, shots=5, seed=1))


def test_a_class_that_training_lacks_is_left_out() -> None:
    means = class_means(draw(6, 3), torch.tensor([0, 0, 2, 2, 2, 2]))
    assert means[1].isnan().all()
    found = mean_classifier(means, means[[0, 2, 0]], torch.tensor([0, 2, 1]))
    assert 0 <= found["top1"] <= 1 and found["top5"] == 1.0


def test_a_pair_that_is_twice_in_a_batch_is_no_negative_and_no_positive_of_itself() -> None:
    index, labels = torch.arange(8), LABELS[:8].clone()
    labels[:] = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    index[5] = 4  # row 5 stands in for a pair that cannot be read
    met = set()
    for seed in range(40):
        for task in (Tuples("pair", negatives=2, block=1), Tuples(negatives=2, block=1)):
            rows, positives, negatives = task.within(index, labels, seed)
            assert (index[negatives] != index[rows][:, None, None]).all()
            if task.positives == "class":
                assert (index[positives] != index[rows][:, None]).all()
            met |= set(rows.tolist())
            plain = task.within(torch.arange(8), labels, seed)
            if task.positives == "pair":  # what is left are the very examples of a batch without a repeat
                kept = torch.isin(plain[0], rows)
                assert torch.equal(plain[2][kept], negatives)
    assert met == {*range(8)}


def test_a_pair_that_is_twice_in_a_batch_is_once_in_the_simclr_loss() -> None:
    ours, theirs = draw(5, 4), draw(5, 4) + 1
    task = Tuples("pair", "simclr", negatives=3, block=1)
    index = torch.tensor([7, 3, 7, 1, 3])
    loss, _ = task.trained(ours, theirs, index, torch.zeros(5, dtype=torch.long), seed=0)
    assert torch.equal(loss, simclr(ours[None, [0, 1, 3]], theirs[None, [0, 1, 3]], 1.0).squeeze())


def test_the_fifth_place_is_among_five_and_the_sixth_is_not() -> None:
    means = torch.eye(7)
    rows = torch.arange(7.0, 0, -1).repeat(2, 1)  # class 0 scores most, class 6 least
    found = mean_classifier(means, rows, torch.tensor([4, 5]))
    assert found["top1"] == 0 and found["top5"] == 0.5


def test_a_class_that_scores_as_much_is_not_beaten() -> None:
    found = mean_classifier(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 1, 0, 1]))
    assert found == {"avg2": 0.0, "top1": 0.0, "top5": 1.0}
