"""Relational knowledge distillation (Park et al. 2019, https://arxiv.org/abs/1904.05068): distances and angles."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossmodal.distributed import gather_with_gradient
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen
from crossmodal.objectives.common.relations import own

PIECE = 1 << 20  # cosines computed at once, to fit a CPU's cache; about seven tensors of this size are needed
ROUNDING = 8  # squared distances below this many units in the last place count as 0

Squares = Float[Tensor, "rows rows"]  # squared distances between rows


class RKD(Objective):
    """Huber losses between student's and teacher's distances of samples, and between the cosines of their angles.

    Distances are divided by the network's mean distance (with gradient through the mean). An angle is taken at one
    sample between two others. Sizes and modalities may differ. The batch is that of all ranks.

    Each loss is a mean over ordered pairs, or triplets, of different samples. The published code also counts pairs and
    triplets that repeat a sample and are always 0, so its values are (B - 1) / B and (B - 1) (B - 2) / B^2 of these.
    Its weight 1 with 25 and 50, at batch 64, is `distance: 24.6` and `angle: 47.7` with weight 1 here.

    Angles are computed from distances by the law of cosines, some vertices at a time, together with their gradient:
    1024 samples of any dimension take about 150 MB, forward and backward. There is no second derivative.

    Raises:
        ValueError: there is no teacher, a weight is below 0, or both are 0.
    """

    relates_pairs = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        distance: float = 25.0,  # weight of the loss on distances; the paper's for classification
        angle: float = 50.0,  # weight of the loss on angles; 0 skips their computation
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("rkd compares distances and angles with a teacher's, and none is named")
        if not (0 <= distance < math.inf and 0 <= angle < math.inf and distance + angle > 0):
            raise ValueError(
                f"rkd: distance and angle must be finite, at least 0 and one above, got {distance} and {angle}"
            )
        self.distance, self.angle = distance, angle

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss, and both terms before their weights; gradient reaches the student."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = (
                square_distances(gather_with_gradient(widen(item.embedding))) for item in (student, teacher)
            )
            parts = {"distance": (self.distance, _distance_loss(ours, theirs))}
            if self.angle:
                parts["angle"] = (self.angle, _angle_loss(ours, theirs, own(student.embedding)))
            loss = torch.stack([weight * part for weight, part in parts.values()]).sum()
        return Outcome(loss, figures={name: part.detach() for name, (_, part) in parts.items()})


def square_distances(rows: Float[Tensor, "rows dim"]) -> Squares:
    """Squared distances between all rows; those within rounding of 0 are 0 and have no gradient."""
    centred = rows - rows.mean(0)  # a common offset would cost digits
    squares = centred.square().sum(1)
    scale = squares[:, None] + squares
    squared = scale - 2 * centred @ centred.T
    none = squared <= ROUNDING * torch.finfo(rows.dtype).eps * scale
    none.fill_diagonal_(True)
    return squared.masked_fill(none, 0.0)


def _distance_loss(ours: Squares, theirs: Squares) -> Float[Tensor, ""]:
    """The mean over ordered pairs of different rows; the diagonal is 0 on both sides."""
    count = max(len(ours) * (len(ours) - 1), 1)
    mine, other = (squares * _inverse(squares) for squares in (ours, theirs))
    tiny = torch.finfo(mine.dtype).tiny
    relative = [distances / (distances.sum() / count).clamp(min=tiny) for distances in (mine, other)]
    return F.smooth_l1_loss(relative[0], relative[1], reduction="sum") / count


def _angle_loss(ours: Squares, theirs: Squares, vertices: slice) -> Float[Tensor, ""]:
    """The mean over all angles at the given vertices."""
    total, others = _Angles.apply(ours, theirs, vertices), len(ours) - 1
    return total / max((vertices.stop - vertices.start) * others * (others - 1), 1)


class _Angles(torch.autograd.Function):
    """The sum of Huber losses between cosines at the vertices, for all ordered pairs of legs.

    A cosine is c = (x + y - z) / (2 sqrt(x y)) of the squared legs x, y and the squared opposite side z. So
    dc/dz = -1 / (2 sqrt(x y)), and dc/dx = 1 / (2 sqrt(x y)) - c / (2 x); both legs and both orders add up.
    """

    @staticmethod
    def forward(ctx: Any, ours: Tensor, theirs: Tensor, vertices: slice) -> Tensor:
        gradient = torch.zeros_like(ours) if ctx.needs_input_grad[0] else None
        total, inverse = ours.new_zeros(()), _inverse(ours)
        for piece, cosines, others in zip(
            _pieces(vertices, ours), _cosines(ours, vertices), _cosines(theirs, vertices), strict=True
        ):
            gaps = cosines - others
            gaps.diagonal(dim1=1, dim2=2).zero_()  # a leg has no angle with itself
            slopes = gaps.clamp(-1, 1)
            total += gaps.sub_(slopes, alpha=0.5).mul_(slopes).sum()
            if gradient is not None:
                legs = inverse[piece]
                gradient[piece] -= legs.square() * cosines.mul_(slopes).sum(2)
                slopes.mul_(legs[:, :, None]).mul_(legs[:, None, :])
                gradient[piece] += slopes.sum(2)
                gradient.sub_(slopes.sum(0), alpha=0.5)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None


def _cosines(squares: Squares, vertices: slice) -> Iterator[Float[Tensor, "vertices rows rows"]]:
    """The cosines of the angles at the vertices between every two rows; 0 where a leg has length 0."""
    inverse = _inverse(squares)
    for piece in _pieces(vertices, squares):
        legs, over = squares[piece], inverse[piece]
        twice = (legs[:, :, None] + legs[:, None, :]).sub_(squares)
        yield twice.mul_(over[:, :, None] / 2).mul_(over[:, None, :])


def _inverse(squares: Squares) -> Squares:
    """1 / distance from squared distances, and 0 where they are 0."""
    none = squares == 0
    return squares.masked_fill(none, 1.0).rsqrt().masked_fill(none, 0.0)


def _pieces(vertices: slice, rows: Squares) -> Iterator[slice]:
    size = max(1, PIECE // rows.numel())
    for start in range(vertices.start, vertices.stop, size):
        yield slice(start, min(start + size, vertices.stop))
