"""Calibration of class probabilities: a temperature, and measures of how far probabilities can be trusted.

Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, sections 2 (expected calibration error) and 4.2 (temperature
scaling).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.metrics.accuracy import accuracy
from crossmodal.metrics.intervals import Totals

COLDEST, HOTTEST = 0.05, 20.0  # range of a fitted temperature
HALVINGS = 60  # of the interval; more than a double's digits


def fit_temperature(logits: Float[Tensor, "pairs classes"], labels: Int[Tensor, " pairs"]) -> float | None:
    """The temperature T that minimises the negative log-likelihood of softmax(logits / T).

    The likelihood is convex in 1 / T, so its only minimum is where the derivative changes its sign, which bisection
    finds. There is none between 0.05 and 20 where all answers are right (more confidence is always better), or where
    the logits say nothing of the labels.

    Args:
        logits: of pairs that were not trained on.
        labels: their classes, from 0.

    Returns:
        T, or None where it lies outside 0.05 to 20.
    """
    rows, truth = logits.double(), labels[:, None]
    own = rows.gather(1, truth)[:, 0]

    def slope(inverse: float) -> float:
        """The derivative of the mean negative log-likelihood in 1 / T: the mean expected logit less the true one."""
        return ((torch.softmax(rows * inverse, 1) * rows).sum(1) - own).mean().item()

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def temperature_interval(logits: Float[Tensor, "pairs classes"], temperature: float) -> tuple[float, float]:
    """The 95 % interval of a fitted temperature, from the curvature of the likelihood (Wald, on the logarithm of T).

    Args:
        logits: those that the temperature was fitted on. The pairs count as independent.
        temperature: the result of `fit_temperature`.
    """
    rows = logits.double()
    shares = (rows / temperature).softmax(1)
    information = ((shares * rows.square()).sum(1) - (shares * rows).sum(1).square()).sum().item()
    half = 1.96 * temperature / math.sqrt(information)
    return temperature * math.exp(-half), temperature * math.exp(half)


def expected_calibration_error(
    probabilities: Float[Tensor, "pairs classes"], labels: Int[Tensor, " pairs"], *, bins: int = 15
) -> float:
    """The mean difference of confidence and accuracy over bins of equal width, weighted by their pairs.

    Args:
        probabilities: of all classes; the greatest is the confidence.
        labels: the true classes.
        bins: number of intervals of the confidence, each without its lower and with its upper end.
    """
    confidence, answers = probabilities.double().max(1)
    right = (answers == labels).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    differences = torch.zeros(bins, dtype=torch.float64, device=place.device).index_add(0, place, right - confidence)
    return (differences.abs().sum() / len(labels)).item()


def judge_probabilities(
    logits: Float[Tensor, "pairs classes"], labels: Int[Tensor, " pairs"], temperature: float = 1.0
) -> dict[str, float]:
    """Accuracy, balanced accuracy, nll (nats) and ece of softmax(logits / temperature).

    Balanced accuracy is the mean over the classes among the labels of the share of right answers.
    """
    scaled = logits.double() / temperature
    answers = scaled.argmax(1)
    return {
        "accuracy": accuracy(answers, labels),
        "balanced_accuracy": Totals.balanced((answers == labels).double(), labels, logits.shape[1])(),
        "nll": F.cross_entropy(scaled, labels).item(),
        "ece": expected_calibration_error(scaled.softmax(1), labels),
    }
