"""Normalisation of a teacher's channels by statistics that are measured before training."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.distributed import gather
from crossmodal.objectives.common.projections import widen

Kind = Literal["whiten", "standardise", "centre", "none"]
FLOOR = 1e-3  # smallest divisor, as a fraction of the largest standard deviation


class ChannelNormalisation(nn.Module):
    """Normalises the channels of vectors or maps by their mean and covariance over all places and pairs.

    `whiten` projects onto the `dim` principal components and divides each by its standard deviation; `standardise`
    divides every channel by its standard deviation; `centre` only subtracts the mean. Call `add` for some batches and
    then `finish`; before that, `forward` gives NaN. The statistics are buffers, so checkpoints hold them.

    Raises:
        ValueError: `dim` is below 1.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, channels: int, kind: Kind = "whiten", dim: int | None = None) -> None:
        super().__init__()
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.kind, self.dim = kind, channels if dim is None or kind != "whiten" else min(dim, channels)
        self.sums: tuple[Tensor, Tensor, Tensor] | None = None  # count, sum and sum of products, in float64
        shape = (channels, self.dim) if kind == "whiten" else (channels,)
        unknown = 1.0 if kind == "none" else torch.nan
        self.register_buffer("mean", torch.full((channels,), unknown))
        self.register_buffer("matrix", torch.full(shape, unknown))

    @torch.no_grad()
    def add(self, item: Float[Tensor, "batch channels *places"]) -> None:
        """Adds a batch to the statistics."""
        rows = item.flatten(2).transpose(1, 2).flatten(0, 1) if item.ndim > 2 else item
        rows = rows.double()
        products = rows.T @ rows if self.kind == "whiten" else rows.square().sum(0)
        new = (rows.new_tensor(float(len(rows))), rows.sum(0), products)
        self.sums = new if self.sums is None else tuple(map(torch.add, self.sums, new))  # type: ignore[assignment]

    @torch.no_grad()
    def finish(self) -> None:
        """Computes the normalisation from the statistics of all ranks.

        Raises:
            ValueError: nothing varies: the teacher's output is the same for all pairs at all places.
        """
        assert self.sums is not None, "finish needs at least one add"
        count, total, products = (gather(each[None]).sum(0) for each in self.sums)
        self.sums = None
        mean = total / count
        if self.kind == "whiten":
            spreads, axes = torch.linalg.eigh(products / count - torch.outer(mean, mean))
            spreads, axes = spreads.flip(0)[: self.dim].clamp(min=0).sqrt(), axes.flip(1)[:, : self.dim]
            strongest = axes.gather(0, axes.abs().argmax(0, keepdim=True))  # eigenvectors have no sign of their own
            axes = axes * strongest.sign()
        else:
            spreads, axes = (products / count - mean.square()).clamp(min=0).sqrt(), torch.ones_like(mean)
        if not spreads.max() > 0:
            raise ValueError("the teacher's output is the same everywhere; check its weights and its view")
        if self.kind != "centre":
            axes = axes / spreads.clamp(min=FLOOR * spreads.max().item())
        if self.kind != "none":
            self.mean.copy_(mean)
            self.matrix.copy_(axes)

    def forward(self, item: Float[Tensor, "batch channels *places"]) -> Float[Tensor, "batch dim *places"]:
        """The normalised item, in float32 or better, without gradient."""
        with torch.no_grad():
            item, places = widen(item), (1,) * (item.ndim - 2)
            if self.kind == "none":
                return item
            centred = item - self.mean.view(-1, *places)
            if self.kind != "whiten":
                return centred * self.matrix.view(-1, *places)
            return torch.einsum("bc...,cd->bd...", centred, self.matrix.to(centred.dtype))
