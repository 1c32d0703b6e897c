"""Shared by objectives: float32 arithmetic, unit length, heads into a common space, and batch norm over all ranks."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crossmodal.distributed import gather_with_gradient
from crossmodal.encoders import Features


def widen(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The tensor in float32, or in float64 if it already is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class ProjectionHeads(nn.Module):
    """Linear heads that bring a student's and a teacher's embedding into one space, as unit vectors."""

    def __init__(self, student_dim: int, teacher_dim: int, dim: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_dim, dim)
        self.teacher = nn.Linear(teacher_dim, dim)

    def forward(
        self, student: Features, teacher: Features
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Both sides, unit length."""
        return _UnitLength.apply(self.student(widen(student.embedding))), self.of_teacher(widen(teacher.embedding))

    def of_teacher(self, embedding: Float[Tensor, "rows teacher"]) -> Float[Tensor, "rows dim"]:
        """The teacher's side, unit length."""
        return _UnitLength.apply(self.teacher(embedding))


class _UnitLength(torch.autograd.Function):
    """F.normalize, whose own backward takes three times as many passes; includes its epsilon for short rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(1e-12)
        unit = rows / length
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        unit, length = ctx.saved_tensors
        along = (slope * unit).sum(1, keepdim=True)
        return torch.addcmul(slope, unit, along, value=-1).div_(length)


class BatchNorm(nn.Module):
    """Batch norm over the rows of all ranks; without running statistics, so forward changes no state.

    Source: Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithm 1; torch's SyncBatchNorm needs a GPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self, batch: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalises every channel to mean `bias` and standard deviation `weight` over batch, height and width."""
        centred = batch - _mean(batch)
        scale = (_mean(centred.square()) + 1e-5).rsqrt()  # as published: a constant channel gives 0
        return centred * scale * self.weight[:, None, None] + self.bias[:, None, None]


def _mean(batch: Tensor) -> Tensor:
    return gather_with_gradient(batch.mean(dim=(0, 2, 3))[None]).mean(dim=0)[:, None, None]
