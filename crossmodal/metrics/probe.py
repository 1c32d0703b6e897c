"""A linear classifier on a frozen embedding."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

FLOOR = 0.1  # of the mean spread of all features: a feature that varies less is divided by this


def linear_probe(
    train: Float[Tensor, "train dim"],
    labels: Int[Tensor, " train"],
    test: Float[Tensor, "test dim"],
    classes: int,
    *,
    l2: float = 1e-3,
    iterations: int = 100,
) -> Int[Tensor, " test"]:
    """Classes of `test` by multinomial logistic regression on the standardised training rows, fitted by L-BFGS.

    Minimises mean cross-entropy + l2 / 2 * |weights|^2; the offset is free. Convex, so nothing is drawn. Each feature
    is divided by its standard deviation over the training rows, or by `FLOOR` times the mean of these over all features
    where that is more: a feature that hardly varies among few training rows would be huge on others.
    """
    centre, spread = train.mean(0), train.std(0, unbiased=False)
    spread = spread.clamp(min=FLOOR * spread.mean().item()) if spread.any() else torch.ones_like(spread)
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
