"""Decoupled knowledge distillation (Zhao et al. 2022, https://arxiv.org/abs/2203.08679)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.logits import mean_over_labelled, need_same_classes
from crossmodal.objectives.common.projections import widen


class DKD(Objective):
    """temperature^2 times two weighted KL(teacher || student): label against the rest, and within the rest; in nats.

    KD is their sum with weight 1 for the first and the teacher's probability of the rest for the second, which is small
    where the teacher is confident (section 3.2). Here the second has its own weight.

    The loss is a mean over a step's labelled rows on all ranks, 0 without labelled rows. Unlabelled rows are ignored.
    The published weights apply as they are; the published runs raise the objective's weight from 0 over the first 20
    epochs.

    Raises:
        ValueError: an option is out of range, student and teacher do not have the same classes, or there are fewer than
            two classes.
    """

    needs_logits = True
    needs_labels = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        target: float = 1.0,  # weight of the label against the rest: the paper's alpha
        others: float = 8.0,  # weight within the rest: the paper's beta in most of its CIFAR-100 runs
        temperature: float = 4.0,  # divides logits
    ) -> None:
        super().__init__()
        if not (0 < temperature < math.inf and 0 <= target < math.inf and 0 <= others < math.inf):
            raise ValueError(
                f"dkd needs temperature above 0 and weights of at least 0, all finite, got temperature={temperature}, "
                f"target={target}, others={others}"
            )
        need_same_classes("dkd", student, teacher)
        if student.classes < 2:
            raise ValueError("dkd separates the label from the rest, so it needs at least 2 classes, got 1")
        self.target, self.others, self.temperature = target, others, temperature

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's classifier."""
        assert teacher is not None and student.logits is not None and teacher.logits is not None
        with torch.autocast(student.logits.device.type, enabled=False):
            is_target = batch.label[:, None] == torch.arange(student.logits.shape[1], device=batch.label.device)
            ours, theirs = (
                _decouple(widen(logits) / self.temperature, is_target) for logits in (student.logits, teacher.logits)
            )
            target, others = (_divergence(mine, other) for mine, other in zip(ours, theirs, strict=True))
            each = (self.target * target + self.others * others) * self.temperature**2
            return Outcome(mean_over_labelled(each.masked_fill(batch.label < 0, 0.0).sum(), batch))


def _decouple(
    logits: Float[Tensor, "batch classes"], is_target: Bool[Tensor, "batch classes"]
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch classes"]]:
    """Log-probabilities of label and rest, and of the classes within the rest, where the label has -inf."""
    every = F.log_softmax(logits, dim=1)
    among = every.masked_fill(is_target, -math.inf)
    rest = among.logsumexp(1)
    target = every.masked_fill(~is_target, 0.0).sum(1)
    return torch.stack([target, rest], dim=1), among - rest[:, None]


def _divergence(ours: Float[Tensor, "batch _"], theirs: Float[Tensor, "batch _"]) -> Float[Tensor, " batch"]:
    """KL(theirs || ours) of log-probabilities, row by row; entries with -inf on both sides add nothing."""
    nothing = theirs == -math.inf
    return (theirs.exp() * (theirs.masked_fill(nothing, 0.0) - ours.masked_fill(nothing, 0.0))).sum(1)
