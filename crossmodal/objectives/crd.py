"""Contrastive Representation Distillation (Tian, Krishnan, Isola 2020, https://arxiv.org/abs/1910.10699)."""

from typing import Literal

import torch
from torch import Tensor

from crossmodal.contrast.bank import Bank, draw_negatives
from crossmodal.contrast.nce import log_normaliser, nce, pick_scores
from crossmodal.encoders._base import Features, Spec
from crossmodal.objectives._base import Batch, Objective, Outcome
from crossmodal.objectives._heads import Heads


class CRD(Objective):
    """The student's embedding must tell its own pair's teacher embedding from other pairs', and the other way round.

    Both embeddings pass a linear head and are made unit length. A bank holds one row per pair and side; the student is
    contrasted with the teacher's bank and the teacher with the student's, by `nce`. Gradients of the first direction
    reach the student and its head, of the second the teacher's head; the teacher itself is frozen. No label is used.

    The loss is the sum over both directions, each a sum over negatives and a mean over the batch, so the published
    weight 0.8 applies. Where there are no more pairs than negatives, the expectation of the draw over all other pairs
    is computed instead of drawing: the same loss without its noise, and faster.

    The positive is the bank's row of the pair, as published. The live pair (`positive="live"`) lets both sides drift
    together away from the lagging banks, where the loss is low and nothing is learnt; see docs/decisions.md.

    Departures from the published code: Z is its closed form for random directions, which is what the published code
    measures on its first batch; a row is never its own negative.

    Raises:
        ValueError: an option is out of its range, or there is no teacher.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        dim: int = 128,  # of the space in which both sides are compared
        temperature: float = 0.07,  # divides cosines
        negatives: int = 16384,  # a pair and direction
        momentum: float = 0.5,  # share of a bank row that stays when its pair is seen again
        positive: Literal["bank", "live"] = "bank",  # the pair's other side: of this batch, or as last remembered
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("crd compares with a teacher, and none is named")
        if temperature <= 0 or negatives < 1 or dim < 1 or not 0 <= momentum < 1 or pairs < 2:
            raise ValueError(
                "crd needs temperature above 0, negatives and dim of at least 1, momentum from 0 to below 1 and two "
                f"pairs, got temperature={temperature}, negatives={negatives}, dim={dim}, momentum={momentum}, "
                f"pairs={pairs}"
            )
        self.heads = Heads(student.dim, teacher.dim, dim)
        self.student_bank = Bank(pairs, dim, momentum=momentum, name="student")
        self.teacher_bank = Bank(pairs, dim, momentum=momentum, name="teacher")
        self.temperature, self.negatives, self.positive = temperature, negatives, positive
        self.log_z = log_normaliser(dim, temperature)
        self.pairs = pairs

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss over both directions; the memo is index and both embeddings."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self.project(student, teacher)
            loss = self._direction(ours, theirs.detach(), self.teacher_bank, batch)
            loss = loss + self._direction(theirs, ours.detach(), self.student_bank, batch)
        return Outcome(loss, (batch.index, ours.detach(), theirs.detach()))

    def remember(self, *memo: Tensor) -> None:
        """Moves both banks' rows of the batch; index, student's and teacher's embeddings."""
        index, ours, theirs = memo
        self.student_bank.update(index, ours)
        self.teacher_bank.update(index, theirs)

    def memory(self) -> dict[str, Tensor]:
        """Both banks."""
        return {"student_bank": self.student_bank.rows, "teacher_bank": self.teacher_bank.rows}

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both sides through their heads, unit length."""
        return self.heads(student, teacher)

    def _direction(self, anchors: Tensor, others: Tensor, bank: Bank, batch: Batch) -> Tensor:
        rows = bank.rows.to(anchors.dtype)
        matches = others if self.positive == "live" else rows[batch.index]
        positive = (anchors * matches).sum(1) / self.temperature
        if self.negatives < self.pairs - 1:
            drawn = draw_negatives(batch.seed, batch.index, self.pairs, self.negatives)
            negative, weight = pick_scores(anchors, rows, drawn) / self.temperature, None
        else:
            negative = anchors @ rows.T / self.temperature
            weight = torch.full_like(negative, self.negatives / (self.pairs - 1))
            weight = weight.scatter(1, batch.index[:, None], 0.0)
        return nce(positive, negative, negatives=self.negatives, log_z=self.log_z, weight=weight)
