"""InfoNCE over the batch (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4), in both directions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal.contrast.gather import gather_with_gradient, ranks
from crossmodal.encoders._base import Features, Spec
from crossmodal.objectives._base import Batch, Objective, Outcome
from crossmodal.objectives._heads import Heads


class InfoNCE(Objective):
    """Mean of the student-to-teacher and teacher-to-student cross-entropies over all ranks' pairs, in nats.

    Both embeddings pass a linear head and are made unit length. Each rank scores its rows against the columns of all
    ranks, with gradient, which equals the joint batch.

    Raises:
        ValueError: `temperature` or `dim` is not above 0, or there is no teacher.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        dim: int = 128,  # of the space in which both sides are compared
        temperature: float = 0.07,  # divides cosines
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("infonce compares with a teacher, and none is named")
        if temperature <= 0 or dim < 1:
            raise ValueError(f"infonce needs temperature above 0 and dim of at least 1, got {temperature} and {dim}")
        self.heads = Heads(student.dim, teacher.dim, dim)
        self.temperature = temperature

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student and both heads."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self.project(student, teacher)
            own = torch.arange(len(ours), device=ours.device) + ranks()[0] * len(ours)
            forth = ours @ gather_with_gradient(theirs).T / self.temperature
            back = theirs @ gather_with_gradient(ours).T / self.temperature
            loss = (F.cross_entropy(forth, own) + F.cross_entropy(back, own)) / 2
        return Outcome(loss)

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both sides through their heads, unit length."""
        return self.heads(student, teacher)
