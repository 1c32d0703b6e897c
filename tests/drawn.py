"""Views as multiview objectives are given them: unit vectors in double precision."""

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal import MULTIVIEW
from crossmodal.multiview import Multiview, Pairings, Views
from modalities.common.random import generator

VIEWS, ROWS, DIM, PAIRS = 3, 5, 4, 12
LABELS = torch.tensor([0, 1, 0, -1, 1, 2, -1, 0])


def draw(name: str, *shape: int) -> Tensor:
    rows = torch.randn(*shape, dtype=torch.float64, generator=generator("drawn", name))
    return F.normalize(rows, dim=-1)


def show(
    queries: Tensor,
    keys: Tensor | None = None,
    *,
    pairings: Pairings | None = None,
    index: Tensor | None = None,
    label: Tensor | None = None,
    present: Tensor | None = None,
) -> Views:
    """Keys are the queries, and all views meet, unless told otherwise."""
    count, rows = queries.shape[:2]
    return Views(
        queries,
        queries if keys is None else keys,
        tuple(permutations(range(count), 2)) if pairings is None else pairings,
        torch.randperm(PAIRS, generator=generator("drawn", "index"))[:rows] if index is None else index,
        LABELS[:rows] if label is None else label,
        present,
        seed=3,
    )


def build(name: str, *earlier: Views, dim: int = DIM, views: int = VIEWS, **options: object) -> Multiview:
    """An objective after some steps."""
    pairings = tuple(permutations(range(views), 2))
    objective = MULTIVIEW.get(name)(dim, pairings, PAIRS, **options).double()
    for step in earlier:
        memo = objective(step).memo
        if memo:
            objective.remember(*memo)
    return objective
