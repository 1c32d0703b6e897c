"""The temperature that calibrates probabilities, and the measures of calibration."""

import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from crossmodal.metrics.calibration import (
    expected_calibration_error,
    fit_temperature,
    judge_probabilities,
    temperature_interval,
)
from modalities.common.random import generator

CLASSES = 5


def answers(pairs: int = 400, sharpness: float = 3.0) -> tuple[Tensor, Tensor]:
    """Logits that know something of the labels, and are too sure of it."""
    random = generator("calibration", pairs)
    labels = torch.randint(CLASSES, (pairs,), generator=random)
    logits = torch.randn(pairs, CLASSES, generator=random)
    logits[torch.arange(pairs), labels] += 1.5
    return sharpness * logits, labels


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 3.0, 9.0])
def test_the_temperature_is_that_of_an_independent_minimiser(sharpness: float) -> None:
    logits, labels = answers(sharpness=sharpness)

    def loss(temperature: float) -> float:
        shares = torch.softmax(logits.double() / temperature, 1)
        return float(log_loss(labels.numpy(), shares.numpy(), labels=range(CLASSES)))

    least = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, labels) == pytest.approx(least.x, rel=1e-5)


def test_a_temperature_scales_with_the_logits() -> None:
    logits, labels = answers()
    first, second = fit_temperature(logits, labels), fit_temperature(2 * logits, labels)
    assert first is not None and second == pytest.approx(2 * first, rel=1e-9)


def test_answers_that_are_all_right_or_say_nothing_have_no_temperature() -> None:
    logits, labels = answers()
    right = torch.nn.functional.one_hot(labels, CLASSES).float()
    assert fit_temperature(right, labels) is None
    assert fit_temperature(-logits, labels) is None
    assert fit_temperature(torch.zeros_like(logits), labels) is None


def test_the_interval_of_a_temperature_holds_the_true_one_in_19_of_20_samples() -> None:
    random, hits = generator("coverage"), 0
    for _ in range(150):
        logits = 3 * torch.randn(60, CLASSES, generator=random)
        labels = torch.multinomial((logits / 2).softmax(1), 1, generator=random)[:, 0]
        found = fit_temperature(logits, labels)
        assert found is not None
        low, high = temperature_interval(logits, found)
        hits += low <= 2 <= high
    assert 0.91 <= hits / 150 <= 0.99


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits, labels = answers()
    shares = logits.softmax(1)
    theirs = multiclass_calibration_error(shares, labels, CLASSES, n_bins=15, norm="l1")
    assert expected_calibration_error(shares, labels) == pytest.approx(theirs.item(), abs=1e-6)


def test_certain_and_right_answers_have_no_calibration_error_and_wrong_ones_all_of_it() -> None:
    shares = torch.eye(3)
    assert expected_calibration_error(shares, torch.arange(3)) == 0
    assert expected_calibration_error(shares, torch.tensor([1, 2, 0])) == 1


def test_the_measures_are_those_of_scikit_learn() -> None:
    logits, labels = answers()
    labels[labels == 3] = 1  # one class is absent, another twice as frequent
    logits[:, 3] = -50
    judged = judge_probabilities(logits, labels, 2.5)
    shares = (logits.double() / 2.5).softmax(1)
    assert judged["nll"] == pytest.approx(log_loss(labels, shares, labels=range(CLASSES)), rel=1e-9)
    assert judged["accuracy"] == pytest.approx(accuracy_score(labels, shares.argmax(1)))
    assert judged["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, shares.argmax(1)))
    assert judged["accuracy"] != judged["balanced_accuracy"]
