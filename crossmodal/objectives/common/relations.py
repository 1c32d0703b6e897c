"""Shared by objectives on relations between samples: this rank's rows against the rows of all ranks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmodal.distributed import gather_with_gradient, ranks


def relate(rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch all"]:
    """Dot products of this rank's rows with all ranks' rows, with gradient to both."""
    return rows @ gather_with_gradient(rows).T


def own(rows: Float[Tensor, "batch _"]) -> slice:
    """The positions of this rank's rows among all ranks' rows."""
    first = ranks()[0] * len(rows)
    return slice(first, first + len(rows))


def selves(relations: Float[Tensor, "batch all"]) -> Bool[Tensor, "batch all"]:
    """Mask of the relations of a row with itself."""
    columns = torch.arange(relations.shape[1], device=relations.device)
    return columns[own(relations), None] == columns
