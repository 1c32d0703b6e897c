"""Supervised cross-entropy with the pairs' labels."""

import torch
import torch.nn.functional as F

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.logits import mean_over_labelled
from crossmodal.objectives.common.projections import widen


class CrossEntropy(Objective):
    """-log softmax(logits)[label], mean over a step's labelled rows on all ranks, in nats; 0 without labelled rows.

    Raises:
        ValueError: the student has no classifier, or `smoothing` is not in [0, 1).
    """

    uses_teacher = False
    needs_logits = True
    needs_labels = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        smoothing: float = 0.0,  # label smoothing: share of the target spread evenly over all classes
    ) -> None:
        super().__init__()
        if student.classes < 2:
            raise ValueError(f"cross_entropy needs a student with at least 2 classes, got {student.classes}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be from 0 to below 1, got {smoothing}")
        self.smoothing = smoothing

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss, and the accuracy on labelled rows, which is NaN without labelled rows."""
        assert student.logits is not None
        logits = widen(student.logits)
        labelled = batch.label >= 0
        with torch.autocast(logits.device.type, enabled=False):
            total = F.cross_entropy(
                logits, batch.label, ignore_index=-1, reduction="sum", label_smoothing=self.smoothing
            )
        right = ((logits.detach().argmax(1) == batch.label) & labelled).sum() / labelled.sum()
        return Outcome(mean_over_labelled(total, batch), figures={"accuracy": right})
