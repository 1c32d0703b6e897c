"""Nearest neighbours in a frozen embedding: classes and quantities read off without training."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.metrics.retrieval import SCORES


def classify(
    train: Float[Tensor, "train dim"],
    labels: Int[Tensor, " train"],
    test: Float[Tensor, "test dim"],
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Int[Tensor, " test"]:
    """Classes by the vote of the nearest training rows, weighted exp(cosine / temperature).

    Source: Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4.
    """
    similarity, nearest = _nearest(train, test, neighbours)
    votes = torch.zeros(len(test), int(labels.max()) + 1, dtype=similarity.dtype, device=test.device)
    return votes.scatter_add(1, labels[nearest], torch.exp((similarity - 1) / temperature)).argmax(1)


def regress(
    train: Float[Tensor, "train dim"],
    targets: Float[Tensor, "train out"],
    test: Float[Tensor, "test dim"],
    *,
    neighbours: int = 5,
) -> Float[Tensor, "test out"]:
    """The mean target of the nearest training rows by cosine."""
    return targets[_nearest(train, test, neighbours)[1]].mean(1)


def _nearest(train: Tensor, test: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    rows, size = F.normalize(train, dim=1), max(1, SCORES // len(train))
    pieces = [
        (F.normalize(piece, dim=1) @ rows.T).topk(min(neighbours, len(train)), dim=1) for piece in test.split(size)
    ]
    return torch.cat([piece.values for piece in pieces]), torch.cat([piece.indices for piece in pieces])
