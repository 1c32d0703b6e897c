"""DIST, distillation from a stronger teacher by correlations (Huang et al. 2022, https://arxiv.org/abs/2205.10536)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.distributed import gather_with_gradient
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.logits import need_same_classes
from crossmodal.objectives.common.projections import widen

EPSILON = 1e-8  # as published: added to norms, so that constant rows correlate with nothing despite rounding


class DIST(Objective):
    """temperature^2 * (1 - Pearson's correlation) of both networks' class probabilities, by sample and by class.

    The loss has two weighted means: over samples, each correlated over its classes (inter-class relation), and over
    classes, each correlated over the samples of all ranks (intra-class relation). Correlation leaves the student free
    to be more or less confident than the teacher. Each mean is from 0 to 2. A constant row correlates with nothing and
    costs 1, as does every class in a batch of one. The published weights apply as they are.

    Raises:
        ValueError: an option is out of range, or student and teacher do not have the same classes.
    """

    needs_logits = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        inter: float = 2.0,  # weight of the mean over samples: the paper's beta
        intra: float = 2.0,  # weight of the mean over classes: the paper's gamma
        temperature: float = 4.0,  # divides logits; the paper uses 4 on CIFAR-100 and 1 on ImageNet
    ) -> None:
        super().__init__()
        if not (0 < temperature < math.inf and 0 <= inter < math.inf and 0 <= intra < math.inf):
            raise ValueError(
                f"dist needs temperature above 0 and weights of at least 0, all finite, got temperature={temperature}, "
                f"inter={inter}, intra={intra}"
            )
        need_same_classes("dist", student, teacher)
        self.relates_pairs = intra > 0
        self.inter, self.intra, self.temperature = inter, intra, temperature

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's classifier."""
        assert teacher is not None and student.logits is not None and teacher.logits is not None
        with torch.autocast(student.logits.device.type, enabled=False):
            ours, theirs = (
                (widen(logits) / self.temperature).softmax(dim=1) for logits in (student.logits, teacher.logits)
            )
            inter = 1 - _correlate(ours, theirs).mean()
            intra = 1 - _correlate(gather_with_gradient(ours).T, gather_with_gradient(theirs).T).mean()
            return Outcome((self.inter * inter + self.intra * intra) * self.temperature**2)


def _correlate(ours: Float[Tensor, "rows _"], theirs: Float[Tensor, "rows _"]) -> Float[Tensor, " rows"]:
    """Pearson's correlation of each row with the same row of the other."""
    ours, theirs = ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    return (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1) + EPSILON)
