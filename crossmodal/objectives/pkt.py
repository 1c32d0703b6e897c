"""Probabilistic knowledge transfer (Passalis, Tefas 2018, https://arxiv.org/abs/1803.10837)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen
from crossmodal.objectives.common.relations import relate, selves

EPSILON = 1e-7  # minimum of the kernel, as published: opposite embeddings have 0, whose logarithm is infinite
NEVER = -1e4  # log odds of a row picking itself: negligible beside others, yet finite for a row that is alone


class PKT(Objective):
    """KL(teacher || student) of the probabilities with which a sample picks another of the batch, mean over the batch.

    In each network a sample picks another with a probability proportional to (cosine + 1) / 2 of their embeddings, so
    sizes and modalities may differ. The batch is that of all ranks. The loss is in nats.

    The published code, `compat: repdistiller`, takes a mean over pairs instead of samples, which divides by the batch
    once more: its weight 30000 at batch 64 equals 468.75 here. It also lets a sample pick itself, which relates no two
    samples, and adds 1e-7 to probabilities in the logarithm. The default is the paper's form.

    Raises:
        ValueError: there is no teacher.
    """

    relates_pairs = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        compat: Literal["repdistiller"] | None = None,  # as in the published code; null: as in the paper
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("pkt compares relations between samples with a teacher's, and none is named")
        self.is_published = compat is not None

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self._log_odds(student.embedding), self._log_odds(teacher.embedding)
            if self.is_published:
                ours, theirs = ours.softmax(1), theirs.softmax(1)
                return Outcome((theirs * ((theirs + EPSILON) / (ours + EPSILON)).log()).sum(1).mean())
            return Outcome(F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True))

    def _log_odds(self, rows: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch all"]:
        """Ln of the unnormalised probabilities with which each row picks the others."""
        kernel = (relate(F.normalize(widen(rows), dim=1)) + 1) / 2
        log_kernel = kernel.clamp(min=EPSILON).log()
        return log_kernel if self.is_published else log_kernel.masked_fill(selves(kernel), NEVER)
