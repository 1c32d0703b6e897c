"""Knowledge distillation (Hinton, Vinyals, Dean 2015, https://arxiv.org/abs/1503.02531, section 2)."""

import math

import torch
import torch.nn.functional as F

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.logits import need_same_classes
from crossmodal.objectives.common.projections import widen


class KD(Objective):
    """temperature^2 * KL(teacher || student) of the softened class probabilities, mean over the batch, in nats.

    Raises:
        ValueError: `temperature` is not above 0 and finite, or student and teacher do not have the same classes.
    """

    needs_logits = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        temperature: float = 4.0,  # divides logits
    ) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
        need_same_classes("kd", student, teacher)
        self.temperature = temperature

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's classifier."""
        assert teacher is not None and student.logits is not None and teacher.logits is not None
        with torch.autocast(student.logits.device.type, enabled=False):
            ours = F.log_softmax(widen(student.logits) / self.temperature, dim=1)
            theirs = F.log_softmax(widen(teacher.logits) / self.temperature, dim=1)
            loss = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * self.temperature**2
        return Outcome(loss)
