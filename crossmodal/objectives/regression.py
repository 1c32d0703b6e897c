"""Feature regression: the student predicts the teacher's embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen


class Regression(Objective):
    """1 - cosine between a linear map of the student's embedding and the teacher's, mean over the batch; from 0 to 2.

    The oldest transfer of features between modalities (Gupta, Hoffman, Malik 2016, https://arxiv.org/abs/1507.00448)
    uses squared distance; with the cosine, the teacher's scale does not matter.

    Raises:
        ValueError: there is no teacher.
    """

    def __init__(self, student: Spec, teacher: Spec | None, pairs: int) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("regression predicts a teacher's embedding, and none is named")
        self.student_head = nn.Linear(student.dim, teacher.dim)

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student and its head."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self.project(student, teacher)
            return Outcome(1 - (ours * theirs).sum(1).mean())

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """The student through its head and the teacher as it is, unit length."""
        return (
            F.normalize(self.student_head(widen(student.embedding)), dim=1),
            F.normalize(widen(teacher.embedding), dim=1),
        )
