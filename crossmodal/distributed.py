"""Gathering of rows from all ranks, in rank order; with one rank, the rows are returned unchanged."""

from typing import Any

import torch
import torch.distributed
from jaxtyping import Shaped
from torch import Tensor


def ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather_with_gradient(rows: Shaped[Tensor, "batch dim"]) -> Shaped[Tensor, "all dim"]:
    """The rows of all ranks; the gradient of every rank's loss flows back to the rank of each row.

    If each loss is a mean over local rows against gathered columns, and DDP averages over ranks, the gradient equals
    that of the joint batch. All ranks must have the same number of rows.
    """
    return rows if ranks()[1] == 1 else _Gather.apply(rows)


@torch.no_grad()
def gather(rows: Shaped[Tensor, "batch *dims"]) -> Shaped[Tensor, "all *dims"]:
    """The rows of all ranks, without gradient."""
    if ranks()[1] == 1:
        return rows
    pieces = [torch.empty_like(rows) for _ in range(ranks()[1])]
    torch.distributed.all_gather(pieces, rows.contiguous())
    return torch.cat(pieces)


@torch.no_grad()
def mean_over_ranks(value: Shaped[Tensor, ""]) -> Shaped[Tensor, ""]:
    """The mean of a scalar over all ranks."""
    return gather(value[None]).mean()


class _Gather(torch.autograd.Function):
    """Replaces torch.distributed.nn's all_gather: torch 2.14 deprecates it for a private module that 2.11 lacks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rank, count = ranks()
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total.chunk(count)[rank]
