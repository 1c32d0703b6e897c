"""A linear classifier on a frozen embedding."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from modalities.common.random import generator

FLOOR = 0.1  # of the mean spread of all features: a feature that varies less is divided by this
LARGE = 1 << 25  # numbers of rows x features, or of rows x classes, above which the probe is fitted in batches
LEAST_BATCH = 1024  # rows of a batch, which are also twice as many as features
PIECE = 1 << 23  # numbers of a block of rows: 32 MiB of float32
PASSES, LEAST_STEPS = 6, 1500  # over the rows in a round, and steps of a round
ROUNDS, TOLERANCE = 4, 1e-3  # at most; a round that lowers the loss of all rows by less, in nats, is the last
MOMENTUM = 0.9


def linear_probe(
    train: Float[Tensor, "train dim"],
    labels: Int[Tensor, " train"],
    test: Float[Tensor, "test dim"],
    classes: int,
    *,
    l2: float = 1e-3,
    iterations: int = 100,
    device: torch.device | None = None,
) -> Int[Tensor, " test"]:
    """Classes of `test` by multinomial logistic regression on the standardised training rows.

    Minimises mean cross-entropy + l2 / 2 * |weights|^2; the offset is free. Each feature is divided by its standard
    deviation over the training rows, or by `FLOOR` times the mean of these over all features where that is more: a
    feature that hardly varies among few training rows would be huge on others.

    Up to `LARGE` numbers, L-BFGS in float64 fits it where the rows are. More are fitted in batches of rows in float32,
    to the same minimum; the order of the rows has a fixed seed.

    Args:
        train: rows to learn from.
        labels: their classes.
        test: rows to classify.
        classes: number of classes.
        l2: weight of the penalty.
        iterations: of L-BFGS, at most.
        device: where batches are computed; None: where the rows are.
    """
    centre, spread = train.mean(0), train.std(0, unbiased=False)
    spread = spread.clamp(min=FLOOR * spread.mean().item()) if spread.any() else torch.ones_like(spread)
    if len(train) * max(train.shape[1], classes) > LARGE:
        fitted = _Batches(train, labels, centre, spread, classes, l2, device or train.device).fit()
        return _classify(test, centre, spread, fitted)
    inputs, queries = ((train - centre) / spread).double(), ((test - centre) / spread).double()
    weights = torch.zeros(inputs.shape[1], classes, dtype=torch.float64, device=train.device, requires_grad=True)
    offset = torch.zeros(classes, dtype=torch.float64, device=train.device, requires_grad=True)
    solver = torch.optim.LBFGS([weights, offset], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(inputs @ weights + offset, labels) + l2 / 2 * weights.square().sum()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        return (queries @ weights + offset).argmax(1)


@dataclass(frozen=True)
class _Batches:
    """Logistic regression by stochastic gradients with momentum, preconditioned by a bound of the Hessian.

    The Hessian of a class's weights is at most half the features' second moments plus the penalty (Boehning 1992,
    https://doi.org/10.1007/BF00048682); times the inverse of this bound, all directions have similar curvature.
    """

    rows: Float[Tensor, "rows dim"]
    labels: Int[Tensor, " rows"]
    centre: Float[Tensor, " dim"]
    spread: Float[Tensor, " dim"]
    classes: int
    l2: float
    device: torch.device

    def fit(self) -> Float[Tensor, "dim_and_one classes"]:
        """The weights, and below them the offsets."""
        weights = torch.zeros(self.rows.shape[1] + 1, self.classes, device=self.device)
        inverse, before = self._inverse(), math.inf
        size = min(max(LEAST_BATCH, 2 * self.rows.shape[1]), len(self.rows))
        steps = max(LEAST_STEPS, PASSES * len(self.rows) // size)
        for number in range(ROUNDS):
            order, velocity = torch.empty(0, dtype=torch.int64), torch.zeros_like(weights)
            for step in range(steps):
                if len(order) < size:
                    more = torch.randperm(len(self.rows), generator=generator("probe", number, step))
                    order = torch.cat([order, more])
                chosen, order = order[:size], order[size:]
                velocity = MOMENTUM * velocity + inverse @ self._gradient(weights, chosen)
                weights -= (1 - step / steps) * velocity
            if before - (loss := self._loss(weights)) < TOLERANCE:
                break
            before = loss
        return weights

    def _read(self, rows: Tensor) -> Float[Tensor, "batch dim_and_one"]:
        return _standardised(rows, self.centre, self.spread, self.device)

    def _gradient(self, weights: Tensor, chosen: Tensor) -> Tensor:
        inputs, labels = self._read(self.rows[chosen]), self.labels[chosen].to(self.device)
        errors = (inputs @ weights).softmax(1)
        errors[torch.arange(len(labels), device=self.device), labels] -= 1
        return inputs.T @ errors / len(labels) + self.l2 * self._penalised(weights)

    @staticmethod
    def _penalised(weights: Tensor) -> Tensor:
        return torch.cat([weights[:-1], torch.zeros_like(weights[-1:])])

    def _inverse(self) -> Float[Tensor, "dim_and_one dim_and_one"]:
        dim = self.rows.shape[1]
        total = torch.zeros(dim + 1, dim + 1, dtype=torch.float64, device=self.device)
        for piece in self.rows.split(max(1, PIECE // dim)):
            inputs = self._read(piece)
            total += inputs.T @ inputs
        bound = total / (2 * len(self.rows)) + self.l2 * torch.eye(dim + 1, dtype=torch.float64, device=self.device)
        return torch.linalg.inv(bound).float()

    def _loss(self, weights: Tensor) -> float:
        """The objective over all rows."""
        size = max(1, PIECE // max(weights.shape))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for rows, labels in zip(self.rows.split(size), self.labels.split(size), strict=True):
            total += F.cross_entropy(self._read(rows) @ weights, labels.to(self.device), reduction="sum")
        return total.item() / len(self.rows) + self.l2 / 2 * weights[:-1].square().sum().item()


def _standardised(rows: Tensor, centre: Tensor, spread: Tensor, device: torch.device) -> Tensor:
    """The rows on the device, less the centre, over the spread, with a column of ones."""
    inputs = ((rows - centre) / spread).to(device)
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)


def _classify(rows: Tensor, centre: Tensor, spread: Tensor, weights: Tensor) -> Tensor:
    pieces = rows.split(max(1, PIECE // max(weights.shape)))
    found = [(_standardised(piece, centre, spread, weights.device) @ weights).argmax(1) for piece in pieces]
    return torch.cat(found).to(rows.device)
