"""Shared by contrastive objectives: two heads into one space, and a pool of embeddings on each side."""

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.contrast.build import build_pool
from crossmodal.contrast.in_batch import InBatch
from crossmodal.contrast.losses import Head
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import PairIds, Pool, Relation
from crossmodal.contrast.queue import Queue
from crossmodal.contrast.scores import COLDEST, Candidates, contrast
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch
from crossmodal.objectives.common.projections import ProjectionHeads, widen

Meeting = tuple[Float[Tensor, "batch dim"], Candidates]  # anchors and their candidates


class Sides(nn.Module):
    """Contrasts the student with a pool of teacher embeddings, and the teacher with a pool of student embeddings.

    A queue holds embeddings of the frozen teacher, which do not go stale. The student's pool is then the batch of all
    ranks: its own earlier embeddings would come from older weights and differ from current ones.

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
        directions: Literal["student", "both"] = "both",  # student: only the student is an anchor
        **bank: Any,
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError(f"{name} compares with a teacher, and none is named")
        if not COLDEST <= temperature < math.inf or dim < 1 or pairs < 2:
            raise ValueError(f"{name} needs a finite temperature from {COLDEST}, dim of at least 1 and two pairs, got "
                             f"temperature={temperature}, dim={dim}, pairs={pairs}")  # fmt: skip
        self.negatives = replace(negatives, source=negatives.source or default)
        apart = self.negatives.apart
        self.relates_pairs = self.negatives.source in ("batch", "gathered")
        self.needs_groups = apart == "group"
        self.needs_labels = together or apart == "label" or bank.get("match") == "related"  # related: no negative
        if self.needs_groups and self.needs_labels:
            raise ValueError(f"{name} cannot combine negatives apart by group with positives by label")
        relation = Relation(self.needs_labels or self.needs_groups, together)
        self.heads = ProjectionHeads(student.dim, teacher.dim, dim)
        build = partial(build_pool, self.negatives, relation, pairs, dim, **bank)
        self.of_teacher: Pool
        self.of_student: Pool | None = None
        if self.negatives.source == "queue":
            kept, dtype = self.negatives.count, getattr(torch, self.negatives.dtype)
            self.of_teacher = Queue(relation, kept, teacher.dim, dtype=dtype, project=self.heads.of_teacher)
            self.of_student = InBatch(relation, gathered=True) if directions == "both" else None
        else:
            self.of_teacher = build(name="teacher")
            self.of_student = build(name="student") if directions == "both" else None
        self.register_buffer("scale", torch.tensor(1 / temperature), persistent=False)

    def project(
        self, student: Features, teacher: Features
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Both sides through their heads, unit length."""
        return self.heads(student, teacher)

    def known(self, batch: Batch) -> PairIds:
        """Indices and, if needed, labels or groups of the batch's pairs."""
        if self.needs_groups:
            assert batch.group is not None
            return PairIds(batch.index, batch.group)
        return PairIds(batch.index, batch.label)

    def both(
        self, head: Head, meetings: list[Meeting], *, scale: Float[Tensor, ""], bias: Float[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """The mean of the losses over the batch and over both directions."""
        losses = [contrast(head, anchors, candidates, scale=scale, bias=bias) for anchors, candidates in meetings]
        return torch.stack(losses).mean() / len(meetings[0][0])

    def meet(self, student: Features, teacher: Features, batch: Batch) -> tuple[list[Meeting], tuple[Tensor, ...]]:
        """Anchors with their candidates, for one direction or both, and the memo for `remember`.

        The memo is empty if the pools keep no state.
        """
        (ours, theirs), known = self.project(student, teacher), self.known(batch)
        queued = self.negatives.source == "queue"
        choice = self.of_teacher.choose(known, batch.seed)
        meetings = [(ours, self.of_teacher.candidates(theirs, choice))]
        if self.of_student is not None:
            other = self.of_student.choose(known, batch.seed) if queued else choice  # equal pairs otherwise
            meetings.append((theirs, self.of_student.candidates(ours, other)))
        if not self.of_teacher.remembered:
            return meetings, ()
        rows = {"student": ours, "teacher": widen(teacher.embedding) if queued else theirs}
        return meetings, (known.index, known.key, *(rows[side].detach() for side in self.pools))

    def remember(self, index: Tensor, key: Tensor, *rows: Tensor) -> None:
        """Stores each side in its pool."""
        for pool, new in zip(self.pools.values(), rows, strict=True):
            pool.remember(new, PairIds(index, key))

    def memory(self) -> dict[str, Tensor]:
        """The pools' live tensors."""
        return {f"{side}_{name}": item for side, pool in self.pools.items() for name, item in pool.memory().items()}

    @property
    def pools(self) -> dict[str, Pool]:
        """The pools by the side that they hold."""
        pools = {"student": self.of_student, "teacher": self.of_teacher}
        return {side: pool for side, pool in pools.items() if pool is not None}
