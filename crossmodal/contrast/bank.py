"""A memory bank: one remembered embedding per pair of the data set."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from modalities._random import generator, uniform_bits


class Bank(nn.Module):
    """One row per pair, moved by momentum towards what was last seen.

    The rows are no buffer: DDP would overwrite every rank's rows with the first rank's at each forward. They follow the
    module's device and are checkpointed by whoever owns the bank. They begin uniform in +-sqrt(3 / dim), of length
    about 1 in expectation, as published, and the same on every rank.
    """

    def __init__(self, pairs: int, dim: int, *, momentum: float, name: str) -> None:
        super().__init__()
        bound = (3 / dim) ** 0.5
        self.rows = (torch.rand(pairs, dim, generator=generator("bank", name)) * 2 - 1) * bound
        self.momentum = momentum

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Any:
        self.rows = fn(self.rows)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def update(self, index: Int[Tensor, " batch"], rows: Float[Tensor, "batch dim"]) -> None:
        """Row <- normalise(momentum * row + (1 - momentum) * new) for the given pairs; others keep their bits.

        Of an index that comes several times the last occurrence counts.
        """
        # CUDA writes to a repeated index in any order, so all its occurrences write what the last one has
        ordered, order = torch.sort(index, stable=True)
        last = order[torch.searchsorted(ordered, index, right=True) - 1]
        mixed = self.momentum * self.rows[index] + (1 - self.momentum) * rows[last].to(self.rows.dtype)
        self.rows[index] = F.normalize(mixed, dim=1)


def draw_negatives(seed: int, index: Int[Tensor, " batch"], pairs: int, count: int) -> Int[Tensor, "batch count"]:
    """Indices uniform over all pairs but each row's own, with replacement; row i depends on (seed, index[i]) alone."""
    column = torch.arange(count, device=index.device)
    drawn = uniform_bits(seed, index[:, None], column[None, :]) % (pairs - 1)
    return drawn + (drawn >= index[:, None])
