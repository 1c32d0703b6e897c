"""Retrieval across modalities: does a pair's one side find its other side among all?"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

SCORES = 1 << 25  # held at once: 128 MiB of float32
ROWS = 1 << 25  # numbers of rows in float64 held at once: 256 MiB


def ranks(
    queries: Float[Tensor, "pairs dim"], gallery: Float[Tensor, "pairs dim"]
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """How many gallery rows are nearer by cosine to query i than its own row i; and how many as near, with itself.

    Raises:
        ValueError: a row is not finite.
    """
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("embeddings must be finite to be compared; the network that gave them has diverged")
    queries, gallery = F.normalize(queries, dim=1), F.normalize(gallery, dim=1)
    nearer, tied, size = [], [], max(1, SCORES // len(gallery))
    for start in range(0, len(queries), size):
        scores = queries[start : start + size] @ gallery.T
        own = torch.arange(start, start + len(scores), device=scores.device)
        mine = scores.gather(1, own[:, None])
        nearer.append((scores > mine + 1e-6).sum(1))
        tied.append(((scores - mine).abs() < 1e-6).sum(1))
    return torch.cat(nearer), torch.cat(tied)


def hits(
    queries: Float[Tensor, "pairs dim"], gallery: Float[Tensor, "pairs dim"], at: Sequence[int] = (1, 5, 10)
) -> dict[int, Float[Tensor, " pairs"]]:
    """1 for each query whose own gallery row is among the nearest k, else 0, for every k in `at`.

    The mean over queries is recall at k; chance is k / pairs. Only the query's own row is a right answer. Rows of the
    same class, or frames next to it, count as wrong, so the figure measures how well instances are told apart. It is
    the expectation over random orders of rows that are as near, so a collapsed embedding scores as chance.
    """
    nearer, tied = ranks(queries, gallery)
    return {k: ((k - nearer).double() / tied).clamp(0, 1) for k in at}


def hits_by_label(
    queries: Float[Tensor, "pairs dim"],
    gallery: Float[Tensor, "pairs dim"],
    labels: Int[Tensor, " pairs"],
    at: Sequence[int] = (1, 5, 10),
) -> dict[int, Float[Tensor, " pairs"]]:
    """1 for each query with a gallery row of its class among the nearest k, else 0, for every k in `at`.

    The query's own row is one of its class. It is the expectation over random orders of rows that are as near. A query
    without a label (-1) has NaN; gallery rows without one are never right.
    """
    queries, gallery = F.normalize(queries, dim=1), F.normalize(gallery, dim=1)
    nearer, tied, right, size = [], [], [], max(1, SCORES // len(gallery))
    for start in range(0, len(queries), size):
        scores = queries[start : start + size] @ gallery.T
        same = labels[start : start + size, None] == labels
        best = scores.masked_fill(~same, -math.inf).amax(1, keepdim=True)
        level = (scores - best).abs() < 1e-6
        nearer.append((scores >= best + 1e-6).sum(1))
        tied.append(level.sum(1))
        right.append((level & same).sum(1))
    above, level, good = (torch.cat(each).double() for each in (nearer, tied, right))
    there = labels >= 0
    return {k: (1 - _missed(level, good, (k - above).clamp(min=0))).where(there, math.nan) for k in at}


def chance_by_label(labels: Int[Tensor, " pairs"], k: int) -> float:
    """The mean of `hits_by_label` in a random order of the gallery."""
    known = labels[labels >= 0]
    members = known.bincount()[known].double()
    return (1 - _missed(torch.full_like(members, len(labels)), members, torch.full_like(members, k))).mean().item()


def _missed(
    rows: Float[Tensor, " pairs"], right: Float[Tensor, " pairs"], drawn: Float[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """The probability that none of the right rows is among those drawn without replacement."""

    def log_choices(count: Tensor, chosen: Tensor) -> Tensor:
        return torch.lgamma(count + 1) - torch.lgamma(chosen + 1) - torch.lgamma(count - chosen + 1)

    drawn = torch.minimum(drawn, rows)
    left = rows - right
    logs = log_choices(left, torch.minimum(drawn, left)) - log_choices(rows, drawn)
    return logs.exp().where(drawn <= left, 0.0)


def nearest(
    queries: Float[Tensor, "queries dim"], gallery: Float[Tensor, "pairs dim"], count: int
) -> Int[Tensor, "queries count"]:
    """Rows of the gallery nearest to each query by cosine, nearest first."""
    return (F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T).topk(count, dim=1).indices


def ridge(
    inputs: Float[Tensor, "pairs dim"], targets: Float[Tensor, "pairs out"], *, strength: float = 1e-2
) -> Float[Tensor, "dim_and_one out"]:
    """The linear map with offset that predicts targets from inputs best in squares, held back by `strength`.

    Apply it with `apply_map`. `strength` is relative to the inputs' mean variance, so their scale and place do not
    matter.
    """
    size = max(1, ROWS // max(inputs.shape[1], targets.shape[1]))  # so that no copy in float64 is large
    centre, middle = _mean(inputs, size), _mean(targets, size)
    gram = product = torch.zeros((), dtype=torch.float64, device=inputs.device)
    for rows, theirs in zip(inputs.split(size), targets.split(size), strict=True):
        centred = rows.double() - centre
        gram = gram + centred.T @ centred
        product = product + centred.T @ (theirs.double() - middle)
    penalty = strength * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny  # which only a constant embedding meets
    weights = torch.linalg.solve(
        gram + penalty * torch.eye(len(gram), dtype=gram.dtype, device=gram.device),
        product,
    )
    return torch.cat([weights, (middle - centre @ weights)[None]]).float()


def _mean(rows: Float[Tensor, "pairs dim"], size: int) -> Float[Tensor, " dim"]:
    """The mean in float64, of blocks of `size` rows."""
    if len(rows) <= size:
        return rows.double().mean(0)
    return torch.stack([piece.double().sum(0) for piece in rows.split(size)]).sum(0) / len(rows)


def apply_map(
    inputs: Float[Tensor, "pairs dim"], weights: Float[Tensor, "dim_and_one out"]
) -> Float[Tensor, "pairs out"]:
    """Inputs through a map of `ridge`."""
    return inputs @ weights[:-1] + weights[-1]
