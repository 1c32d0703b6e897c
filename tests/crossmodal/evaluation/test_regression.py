"""Numbers that training neighbours answer, and that the mean of the training pairs answers."""

import pytest
import torch
from embedded import labelled, seen

from crossmodal.evaluation.regression import Regression


def test_chance_is_the_error_of_the_training_pairs_mean_on_test_pairs() -> None:
    pairs = labelled()
    pairs.read["x", (0,)] = torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[5.0], [9.0]])
    assert Regression("x", (0,)).chance(pairs) == {"error.x": 5.0}


def test_the_answer_is_the_mean_of_training_neighbours() -> None:
    pairs, train = labelled(), torch.eye(3)
    pairs.read["x", (0,)] = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[0.0], [6.0]])
    test = torch.tensor([[0.9, 0.5, 0.0], [0.0, 0.5, 0.9]])
    found = Regression("x", (0,), neighbours=2).measure(seen(train, test), pairs)
    assert found == {"error.x": pytest.approx((1.5 + 2) / 2)}


def test_from_scratch_the_numbers_of_training_pairs_are_learnt() -> None:
    pairs, known = labelled(), torch.tensor([[1.0], [2.0], [6.0]])
    pairs.read["x", (0,)] = known, torch.tensor([[0.0], [6.0]])
    found = Regression("x", (0,)).targets(pairs)
    assert found.name == "x" and torch.equal(found.values, known)
