"""Which pairs vote, and whose classifier is judged, with embeddings small enough to follow by hand."""

from dataclasses import replace

import pytest
import torch
from embedded import draw, labelled, seen

from crossmodal.evaluation.classification import Classification


def test_chance_is_the_share_of_the_largest_class_of_test_pairs() -> None:
    found = Classification().chance(labelled())
    assert found == {"knn": 2 / 3, "probe": 2 / 3, "probe.balanced": 1 / 2, "classifier": 2 / 3}


def test_neighbours_are_training_pairs_with_a_label_and_as_many_as_asked_for() -> None:
    # beside each test pair lie one pair of its class and then two of the other; far away lies one without a class
    angles = torch.tensor([0.10, 0.11, 0.20, 0.0, 2.0, 2.1])
    train = torch.stack([angles.cos(), angles.sin()], 1)
    pairs = labelled(torch.tensor([0, 1, 1, -1, 1, 1]), torch.tensor([0]))
    for neighbours, right in ((1, 1.0), (3, 0.0)):
        assert Classification(neighbours).measure(seen(train, train[[3]]), pairs)["knn"] == right


def test_a_classifier_is_judged_where_its_classes_are_those_of_the_pairs() -> None:
    given = seen(draw("train", 6, 3), draw("test", 4, 3), torch.eye(2)[[1, 0, 0, 0]])
    ours, theirs = (
        Classification().measure(replace(given, classes=classes), labelled()) for classes in (["a", "b"], ["b", "a"])
    )
    assert ours["classifier"] == pytest.approx(2 / 3) and "classifier" not in theirs
