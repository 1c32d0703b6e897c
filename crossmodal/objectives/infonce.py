"""InfoNCE (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4), in both directions."""

from typing import Literal

import torch
from torch import Tensor

from crossmodal.contrast.losses import infonce
from crossmodal.contrast.options import Negatives
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.contrastive import Sides


class InfoNCE(Objective):
    """Mean of the student-to-teacher and teacher-to-student cross-entropies over all ranks' pairs, in nats.

    Both embeddings pass a linear head and are scaled to unit length. By default each rank scores its rows against those
    of all ranks, with gradient, which equals the joint batch. A queue or a bank adds negatives from outside it.

    With `positives: label` it is supervised contrastive learning (SupCon, Khosla et al. 2020,
    https://arxiv.org/abs/2004.11362, eq. 2, L_out), with the two networks as the two views: the positives are the
    pair's own other side and that of every pair with its label. An unlabelled pair has only its own.

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
        temperature: float = 0.07,  # divides cosines
        positives: Literal["pair", "label"] = "pair",  # positives of an anchor: its own pair, or all pairs of its class
        negatives: Negatives = Negatives(),  # source of negatives; default: gathered
    ) -> None:
        super().__init__()
        self.sides = Sides("infonce", student, teacher, pairs, dim=dim, temperature=temperature, negatives=negatives,
                           default="gathered", together=positives == "label")  # fmt: skip
        self.needs_labels, self.needs_groups = self.sides.needs_labels, self.sides.needs_groups
        self.relates_pairs = self.sides.relates_pairs

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student and both heads."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            meetings, memo = self.sides.meet(student, teacher, batch)
            loss = self.sides.both(infonce, meetings, scale=self.sides.scale, bias=torch.zeros_like(self.sides.scale))
        return Outcome(loss, memo)

    def remember(self, *memo: Tensor) -> None:
        """Stores both sides in the queues or banks."""
        self.sides.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """The state of the queues or banks; empty without them."""
        return self.sides.memory()

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both sides through their heads, unit length."""
        return self.sides.project(student, teacher)
