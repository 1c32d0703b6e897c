"""Noise-contrastive estimation over scores, in log domain."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

DENSE_LIMIT = 1 << 25  # scores held at once: 128 MiB of float32


def log_normaliser(dim: int, temperature: float) -> float:
    """Ln E exp(cosine / temperature) between independent directions: 1 / (2 dim temperature^2), to second order.

    A CRD bank begins random, so this is what the published code measures on its first batch and keeps.
    """
    return 1 / (2 * dim * temperature**2)


def nce(
    positive: Float[Tensor, " batch"],
    negative: Float[Tensor, "batch negatives"],
    *,
    negatives: int,
    log_z: float,
    weight: Float[Tensor, "batch negatives"] | None = None,
) -> Float[Tensor, ""]:
    """CRD's critic loss: mean over rows of -log h(positive) - sum over negatives of log(1 - h(negative)).

    With scores s = cosine / temperature, K negatives and Z / N the mean of exp(s), h = sigmoid(s - ln(K Z / N)):
    logistic regression, so dL/ds = h - C. `weight` counts a column several times, as an expectation over draws does.

    Source: Tian, Krishnan, Isola 2020, https://arxiv.org/abs/1910.10699, eq. 10-11 and 18, with Z as in the published
    code; the formula without Z saturates.
    """
    bias = math.log(negatives) + log_z
    repelled = F.softplus(negative - bias)
    total = (repelled if weight is None else repelled * weight).sum(1)
    return (F.softplus(bias - positive) + total).mean()


def pick_scores(
    anchors: Float[Tensor, "batch dim"], rows: Float[Tensor, "pairs dim"], picked: Int[Tensor, "batch negatives"]
) -> Float[Tensor, "batch negatives"]:
    """Anchors @ rows.T at the picked columns.

    One dense product and a gather of scalars is several times faster than gathering batch x negatives x dim rows, and
    exact; anchors go in chunks so that at most `DENSE_LIMIT` scores are held at once, and none is kept for backward.
    """
    chunk = max(1, DENSE_LIMIT // len(rows))
    pieces = zip(anchors.split(chunk), picked.split(chunk), strict=True)
    return torch.cat([_Pick.apply(piece @ rows.T, columns) for piece, columns in pieces])


class _Pick(torch.autograd.Function):
    """`scores.gather(1, picked)`; the gradient of gather itself keeps all scores, for their size alone."""

    @staticmethod
    def forward(scores: Tensor, picked: Tensor) -> Tensor:
        return scores.gather(1, picked)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        scores, picked = inputs
        ctx.size = scores.shape
        ctx.save_for_backward(picked)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (picked,) = ctx.saved_tensors
        return grad.new_zeros(ctx.size).scatter_add(1, picked, grad), None
