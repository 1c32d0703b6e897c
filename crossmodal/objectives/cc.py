"""Correlation congruence (Peng et al. 2019, https://arxiv.org/abs/1904.01802)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.distributed import gather_with_gradient
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen
from crossmodal.objectives.common.relations import relate

NARROWEST = 20  # limit of gamma: squares of kernel values, down to exp(-4 gamma), must be representable in float32


class CC(Objective):
    """Squared difference of student's and teacher's correlations between samples, mean over sample pairs on all ranks.

    A correlation is the Gaussian kernel exp(-gamma |x - y|^2) of two unit embeddings, as the Taylor series in their
    cosine: exp(-2 gamma) times the sum of (2 gamma cosine)^p / p! over p <= order.

    By default only the student is trained: correlations are computed within each network, so no head is needed for a
    common space. With heads on both sides, as published, the target can collapse: both heads map all samples to one
    point, and the loss is 0 for any student (a test shows it). A head on the student alone cannot do that, but it can
    lower the loss without improving the embedding that is used later.

    The published code, `compat: repdistiller`, computes something else. Residuals are student minus teacher, each
    through a linear head; the loss is the sum over dimensions of |x| |y| for residuals x and y of neighbouring samples
    in the batch, a mean over neighbours. It depends on the order of the batch. The published weight 0.02 belongs to
    this form, at any batch size; the kernel's values are at most 1 and need their own weight.

    Raises:
        ValueError: there is no teacher, an option is out of range, or the published form lacks a common space.
    """

    relates_pairs = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        gamma: float = 0.4,  # inverse width of the Gaussian kernel on unit embeddings
        order: int = 2,  # highest power of the kernel's Taylor series
        heads: Literal["none", "student", "both"] | None = None,  # trained heads; null: none, or both with compat
        dim: int = 128,  # output size with heads on both sides; a head on the student alone has the teacher's size
        compat: Literal["repdistiller"] | None = None,  # neighbours' residuals, as in the published code; null: paper
    ) -> None:
        super().__init__()
        heads = heads or ("none" if compat is None else "both")
        if teacher is None:
            raise ValueError("cc compares correlations of samples with a teacher's, and none is named")
        if not 0 < gamma <= NARROWEST or order < 1 or dim < 1:
            raise ValueError(
                f"cc needs a finite gamma above 0, up to {NARROWEST}, order and dim of at least 1, got gamma={gamma}, "
                f"order={order}, dim={dim}"
            )
        if compat is not None and heads == "none" and student.dim != teacher.dim:
            raise ValueError(
                f"cc: compat subtracts embeddings, and the student's has {student.dim} numbers and the teacher's "
                f"{teacher.dim}; set heads: student or both"
            )
        self.gamma, self.order, self.subtracts = gamma, order, compat is not None
        into = dim if heads == "both" else teacher.dim
        self.student_head = nn.Identity() if heads == "none" else nn.Linear(student.dim, into)
        self.teacher_head = nn.Linear(teacher.dim, into) if heads == "both" else nn.Identity()

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student and the heads."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours = self.student_head(widen(student.embedding))
            theirs = self.teacher_head(widen(teacher.embedding))
            if self.subtracts:
                return Outcome(_product_of_neighbours((ours - theirs).abs()))
            return Outcome((self._correlations(ours) - self._correlations(theirs)).square().mean())

    def _correlations(self, rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch all"]:
        cosines = relate(F.normalize(rows, dim=1))
        series = torch.ones_like(cosines)
        for power in range(self.order, 0, -1):
            series = 1 + series * cosines * (2 * self.gamma / power)
        return series * math.exp(-2 * self.gamma)


def _product_of_neighbours(residuals: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    every = gather_with_gradient(residuals)
    return (every[:-1] * every[1:]).sum() / max(len(every) - 1, 1)
