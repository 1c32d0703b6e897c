"""What several objectives share: wide arithmetic, unit length, and two linear heads into one space."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders._base import Features


def widen(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32, or in float64 where it came so."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


class Heads(nn.Module):
    """Linear heads that bring a student's and a teacher's embedding into one space, as unit vectors."""

    def __init__(self, student_dim: int, teacher_dim: int, dim: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_dim, dim)
        self.teacher = nn.Linear(teacher_dim, dim)

    def forward(
        self, student: Features, teacher: Features
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Both sides, unit length."""
        return (
            F.normalize(self.student(widen(student.embedding)), dim=1),
            F.normalize(self.teacher(widen(teacher.embedding)), dim=1),
        )
