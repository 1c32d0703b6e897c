"""Supervised cross-entropy with the pairs' labels."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.logits import mean_over_labelled
from crossmodal.objectives.common.projections import widen


class CrossEntropy(Objective):
    """-log softmax(logits)[label], mean over a step's labelled rows on all ranks, in nats; 0 without labelled rows.

    With `class_weights: balanced`, the loss of a row of class c is multiplied by n / (classes * n_c), where n_c of
    the n labelled training pairs have this class, as in scikit-learn. So every class has the same total weight, and the
    mean weight of the pairs is 1. Classes without pairs are not counted.

    Raises:
        ValueError: the student has no classifier, or `smoothing` is not in [0, 1).
    """

    uses_teacher = False
    needs_logits = True
    needs_labels = True
    class_weight: Tensor | None

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        smoothing: float = 0.0,  # label smoothing: share of the target spread evenly over all classes
        class_weights: Literal["balanced"] | None = None,  # balanced: rare classes count as much as frequent ones
    ) -> None:
        super().__init__()
        if student.classes < 2:
            raise ValueError(f"cross_entropy needs a student with at least 2 classes, got {student.classes}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be from 0 to below 1, got {smoothing}")
        self.smoothing, self.is_balanced = smoothing, class_weights == "balanced"
        self.register_buffer("class_weight", None, persistent=False)

    def count_classes(self, counts: Sequence[int]) -> None:
        """Computes the classes' weights."""
        if self.is_balanced:
            present = torch.tensor(counts, dtype=torch.float64)
            weights = present.sum() / ((present > 0).sum() * present)
            self.class_weight = torch.where(present > 0, weights, 0.0).float()

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss, and the accuracy on labelled rows, which is NaN without labelled rows."""
        assert student.logits is not None
        logits = widen(student.logits)
        labelled = batch.label >= 0
        weight = None if self.class_weight is None else self.class_weight.to(logits)
        with torch.autocast(logits.device.type, enabled=False):
            total = F.cross_entropy(
                logits, batch.label, weight, ignore_index=-1, reduction="sum", label_smoothing=self.smoothing
            )
        right = ((logits.detach().argmax(1) == batch.label) & labelled).sum() / labelled.sum()
        return Outcome(mean_over_labelled(total, batch), figures={"accuracy": right})
