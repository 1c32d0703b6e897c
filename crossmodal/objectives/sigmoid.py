"""The sigmoid loss of image-text pretraining (SigLIP; Zhai et al. 2023, https://arxiv.org/abs/2303.15343)."""

import math

import torch
from torch import Tensor, nn

from crossmodal.contrast.losses import sigmoid
from crossmodal.contrast.options import Negatives
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.contrastive import Sides


class Sigmoid(Objective):
    """Classifies each student-teacher combination by itself as the same pair or not (eq. 1), in nats.

    The loss is a sum over candidates, a mean over the anchors of all ranks and a mean over both directions, which are
    equal within a batch. Bias and temperature are learned, the temperature through its logarithm.

    Raises:
        ValueError: an option is out of range, or there is no teacher.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        dim: int = 128,  # size of the space in which both sides are compared
        temperature: float = 0.1,  # divides cosines; learned from this initial value
        bias: float = -10.0,  # added to scores; learned from this initial value
        negatives: Negatives = Negatives(),  # source of negatives; default: gathered
    ) -> None:
        super().__init__()
        self.sides = Sides("sigmoid", student, teacher, pairs, dim=dim, temperature=temperature, negatives=negatives,
                           default="gathered")  # fmt: skip
        self.needs_labels, self.needs_groups = self.sides.needs_labels, self.sides.needs_groups
        self.relates_pairs = self.sides.relates_pairs
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student, both heads, temperature and bias."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            meetings, memo = self.sides.meet(student, teacher, batch)
            loss = self.sides.both(sigmoid, meetings, scale=self.log_scale.exp(), bias=-self.bias)
        figures = {"temperature": (-self.log_scale.detach()).exp(), "bias": self.bias.detach()}
        return Outcome(loss, memo, figures)

    def remember(self, *memo: Tensor) -> None:
        """Stores both sides in the queues or banks."""
        self.sides.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """The state of the queues or banks; empty without them."""
        return self.sides.memory()

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both sides through their heads, unit length."""
        return self.sides.project(student, teacher)
