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
    """temperature^2 times two weighted KL(teacher || student): of the label against the rest, and within the rest.

    KD is their sum with weights 1 and the teacher's probability of the rest, which is small where the teacher is sure
    (section 3.2); here the second has a weight of its own. In nats.

    The mean is over a step's labelled rows on all ranks, 0 where no row has a label: a row without one has nothing to
    decouple, and counts as if it were not there. The published weights apply as they are; the published runs raise the
    objective's weight from 0 over their first 20 epochs.

    Raises:
        ValueError: an option is out of its range, student and teacher do not share their classes, or there are fewer
            than two.
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
        others: float = 8.0,  # weight within the rest: the paper's beta, of most of its CIFAR-100 runs
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
            raise ValueError("dkd tells a label from the rest, so it needs at least 2 classes, got 1")
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
    """Log-probabilities of the label and of the rest, and of the classes within the rest, where the label has -inf."""
    every = F.log_softmax(logits, dim=1)
    among = every.masked_fill(is_target, -math.inf)
    rest = among.logsumexp(1)
    target = every.masked_fill(~is_target, 0.0).sum(1)
    return torch.stack([target, rest], dim=1), among - rest[:, None]


def _divergence(ours: Float[Tensor, "batch _"], theirs: Float[Tensor, "batch _"]) -> Float[Tensor, " batch"]:
    """KL(theirs || ours) of log-probabilities, row by row; what has -inf on both sides adds nothing."""
    nothing = theirs == -math.inf
    return (theirs.exp() * (theirs.masked_fill(nothing, 0.0) - ours.masked_fill(nothing, 0.0))).sum(1)
