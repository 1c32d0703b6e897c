"""SEED, self-supervised distillation (Fang et al. 2021, https://arxiv.org/abs/2101.04731)."""

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from crossmodal.contrast.losses import Scored
from crossmodal.contrast.pool import PairIds, Relation
from crossmodal.contrast.queue import Queue
from crossmodal.contrast.scores import Candidates, contrast
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen


class SEED(Objective):
    """Matches the similarities of the student's embedding to a queue of teacher embeddings; cross-entropy in nats.

    The queue holds the latest teacher embeddings of all ranks; the pair's own teacher embedding is added. Student and
    teacher embeddings are compared with all of these by cosine. The softmax of the teacher's cosines is the target for
    the softmax of the student's. The loss is a mean over the batch and at least the entropy of the target. No label is
    used and no pair is a negative: pairs that are similar for the teacher should be similar for the student.

    The student's embedding passes a linear head into the teacher's space (two layers in the published code); both have
    unit length. Gradient reaches the student and its head. Scores are computed in pieces and never all stored.

    Departures from the published code: queue places do not count before they are filled, nor does an older embedding of
    the pair itself; the queue has no more places than there are pairs. The loss is 0 while the queue is empty. The
    published weight 1 applies.

    Raises:
        ValueError: there is no teacher, or an option is out of range.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        count: int = 65536,  # size of the queue of teacher embeddings, at most the number of pairs
        student_temperature: float = 0.2,  # divides the student's cosines
        teacher_temperature: float = 0.01,  # divides the teacher's cosines; low, so that few near neighbours count
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",  # storage of the queue
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("seed compares similarities with a teacher's, and none is named")
        if not (0 < student_temperature < math.inf and 0 < teacher_temperature < math.inf) or count < 1:
            raise ValueError(
                f"seed needs finite temperatures above 0 and count of at least 1, got student_temperature="
                f"{student_temperature}, teacher_temperature={teacher_temperature}, count={count}"
            )
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.student_head = nn.Linear(student.dim, teacher.dim)
        self.queue = Queue(Relation(), min(count, pairs), teacher.dim, dtype=getattr(torch, dtype))

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; the memo holds the rows for the queue."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            ours, theirs = self.project(student, teacher)
            known = PairIds(batch.index, batch.label)
            candidates = self._with_target(self.queue.candidates(theirs, self.queue.choose(known, batch.seed)), theirs)
            scale, bias = ours.new_full((), 1 / self.student_temperature), ours.new_zeros(())
            loss = contrast(_cross_entropy, ours, candidates, scale=scale, bias=bias) / len(ours)
        return Outcome(loss, (known.index, known.key, theirs))

    def remember(self, *memo: Tensor) -> None:
        """Adds the teacher's embeddings to the queue."""
        index, label, theirs = memo
        self.queue.remember(theirs, PairIds(index, label))

    def memory(self) -> dict[str, Tensor]:
        """The queue's live tensors."""
        return {f"teacher_{name}": item for name, item in self.queue.remembered.items()}

    def project(
        self, student: Features, teacher: Features
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """The student through its head and the teacher as it is, unit length."""
        return (
            F.normalize(self.student_head(widen(student.embedding)), dim=1),
            F.normalize(widen(teacher.embedding), dim=1).detach(),
        )

    def _with_target(self, candidates: Candidates, theirs: Float[Tensor, "batch dim"]) -> Candidates:
        """The candidates with the teacher's distribution in place of a mask of positives."""

        def relate(piece: slice | Tensor) -> tuple[Tensor, Tensor]:
            _, valid = candidates.relate(piece)
            assert valid is not None
            valid[:, 0] = True  # the pair's own embedding, which the mask of negatives excludes
            scores = candidates.part(piece, theirs.dtype).score(theirs[piece] / self.teacher_temperature)
            return scores.masked_fill_(~valid, -math.inf).softmax(1), valid

        return replace(candidates, relate=relate)


def _cross_entropy(
    scores: Float[Tensor, "anchors candidates"],
    target: Float[Tensor, "anchors candidates"] | None,
    valid: Bool[Tensor, "anchors candidates"] | None,
    bias: Float[Tensor, ""],
) -> Scored:
    """A loss for `contrast`: -sum of target log softmax(scores) over valid candidates; `bias` cancels."""
    assert target is not None and valid is not None
    log_probabilities = scores.masked_fill_(~valid, -math.inf).log_softmax(1)
    losses = -(target * log_probabilities.masked_fill(~valid, 0.0)).sum(1)
    return losses, log_probabilities.exp_().sub_(target)
