"""What contrastive objectives share: two heads into one space, and a pool of embeddings on each side."""

from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.contrast._pool import Known, Pool, Relation
from crossmodal.contrast.batch import InBatch
from crossmodal.contrast.heads import Head
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pools import build_pool
from crossmodal.contrast.queue import Queue
from crossmodal.contrast.scores import Candidates, contrast
from crossmodal.encoders._base import Features, Spec
from crossmodal.objectives._base import Batch
from crossmodal.objectives._heads import Heads, widen

Meeting = tuple[Float[Tensor, "batch dim"], Candidates]  # anchors, and what they are contrasted with


class Sides(nn.Module):
    """The student contrasted with what is known of the teacher, and the teacher with what is known of the student.

    A queue holds embeddings of the frozen teacher, which do not age, and the student's side is the batch of all ranks:
    its own earlier embeddings would be those of another network, from which both sides drift away.

    Raises:
        ValueError: there is no teacher, or `dim` or `temperature` is out of range; the message begins with `name`.
    """

    scale: Tensor  # inverse temperature

    def __init__(
        self,
        name: str,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        dim: int,
        temperature: float,
        negatives: Negatives,
        default: Literal["gathered", "bank"],
        together: bool = False,
        **bank: Any,
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError(f"{name} compares with a teacher, and none is named")
        if temperature <= 0 or dim < 1 or pairs < 2:
            raise ValueError(f"{name} needs temperature above 0, dim of at least 1 and two pairs, got "
                             f"temperature={temperature}, dim={dim}, pairs={pairs}")  # fmt: skip
        self.negatives = replace(negatives, source=negatives.source or default)
        apart = self.negatives.apart
        self.needs_groups = apart == "group"
        self.needs_labels = together or apart == "label" or bank.get("match") == "related"
        if self.needs_groups and self.needs_labels:
            raise ValueError(f"{name} cannot keep negatives apart by group and take positives by label")
        relation = Relation(together or apart != "pair", together)
        self.heads = Heads(student.dim, teacher.dim, dim)
        self.of_student: Pool
        self.of_teacher: Pool
        if self.negatives.source == "queue":
            kept, dtype = self.negatives.count, getattr(torch, self.negatives.dtype)
            self.of_student = InBatch(relation, gathered=True)
            self.of_teacher = Queue(relation, kept, teacher.dim, dtype=dtype, project=self.heads.of_teacher)
        else:
            self.of_student, self.of_teacher = (
                build_pool(self.negatives, relation, pairs, dim, name=side, **bank) for side in ("student", "teacher")
            )
        self.register_buffer("scale", torch.tensor(1 / temperature), persistent=False)

    def project(
        self, student: Features, teacher: Features
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Both sides through their heads, unit length."""
        return self.heads(student, teacher)

    def known(self, batch: Batch) -> Known:
        """Numbers and, where they matter, labels or groups of the batch's pairs."""
        if self.needs_groups:
            assert batch.group is not None
            return Known(batch.index, batch.group)
        return Known(batch.index, batch.label)

    def both(
        self, head: Head, meetings: list[Meeting], *, scale: Float[Tensor, ""], bias: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """The mean over the batch and over both directions of the head's losses."""
        losses = [contrast(head, anchors, candidates, scale=scale, bias=bias) for anchors, candidates in meetings]
        return torch.stack(losses).mean() / len(meetings[0][0])

    def meet(self, student: Features, teacher: Features, batch: Batch) -> tuple[list[Meeting], tuple[Tensor, ...]]:
        """Anchors with their candidates: the student's among the teacher's, and the teacher's among the student's.

        And what `remember` wants of this batch; nothing where nothing is remembered.
        """
        (ours, theirs), known = self.project(student, teacher), self.known(batch)
        queued = self.negatives.source == "queue"
        choice = self.of_teacher.choose(known, batch.seed)
        other = self.of_student.choose(known, batch.seed) if queued else choice  # else both know the same pairs
        meetings = [
            (ours, self.of_teacher.candidates(theirs, choice)),
            (theirs, self.of_student.candidates(ours, other)),
        ]
        if not self.of_teacher.remembered:
            return meetings, ()
        kept = widen(teacher.embedding) if queued else theirs
        return meetings, (known.index, known.key, ours.detach(), kept.detach())

    def remember(self, index: Tensor, key: Tensor, ours: Tensor, theirs: Tensor) -> None:
        """Both pools learn their side."""
        known = Known(index, key)
        self.of_student.remember(ours, known)
        self.of_teacher.remember(theirs, known)

    def memory(self) -> dict[str, Tensor]:
        """What both pools remember; the live tensors."""
        sides = {"student": self.of_student, "teacher": self.of_teacher}
        return {f"{side}_{name}": item for side, pool in sides.items() for name, item in pool.remembered.items()}
