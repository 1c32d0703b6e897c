"""Contrastive Representation Distillation (Tian, Krishnan, Isola 2020, https://arxiv.org/abs/1910.10699)."""

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.contrast.losses import nce
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.scores import contrast, log_sum_exp
from crossmodal.distributed import gather
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.contrastive import Meeting, Sides

EPSILON = 1e-7  # added to K / N by the published code
PACE = 0.9  # decay of the running ln Z per step


class CRD(Objective):
    """Contrasts the student's embedding with the teacher embeddings of its own pair and of other pairs.

    Both embeddings pass a linear head and are scaled to unit length. A memory bank holds one teacher row per pair, and
    the student is contrasted with it by `contrast.losses.nce`. The teacher's head stays the random projection that it
    starts as. With `directions: both`, as published, a second bank holds the student's side, and contrasting the
    teacher with that trains its head. The teacher itself is frozen. Embeddings of the current batch (a live positive,
    negatives from the batch) receive gradient too. Labels are only used if an option asks for them.

    The loss is a sum over negatives and directions and a mean over the batch, so the published weight 0.8 applies.
    Negatives that are in the batch, or share the anchor's label, are left out and the others are reweighted. If there
    are no more pairs than negatives, the expectation over all pairs replaces the draw: the same loss without its noise,
    and faster.

    Departures from the published code, all undone by `compat: repdistiller`: one direction; Z has its closed form for
    random directions, which that code measures on its first batch; until a pair's row is first written, its anchor is
    contrasted with the current batch instead of noise; a row is never a negative of its own pair; a draw is shared by
    the batch. `compat` also adds that code's 1e-7 to K / N. Labels are stored with the rows, so `apart: label` is
    complete only after the first pass.

    The closed form, 1 / (2 dim temperature^2), is ln E exp(cosine / temperature) to second order: 0.80 for 0.79 at the
    defaults, but 6.4 for 5.1 at dim 16, and 39 for 32 at temperature 0.01, where hardly any negative counts. `z: first`
    measures it once all rows are written, and uses the closed form until then.

    Raises:
        ValueError: an option is out of range or contradicts another, or there is no teacher.
    """

    log_z: Tensor  # ln(Z / N) of each direction, unless it is learned

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        dim: int = 128,  # size of the space in which both sides are compared
        temperature: float = 0.07,  # divides cosines
        negatives: Negatives = Negatives(),  # source of negatives; default: a bank
        positive: Literal["bank", "live", "related"] = "bank",  # live: batch (collapsed on doom); related: same label
        z: Literal["closed", "first", "running", "learned"] = "closed",  # closed form, measured once, running, trained
        directions: Literal["student", "both"] | None = None,  # null: student; both also trains the teacher's head
        compat: Literal["repdistiller"] | None = None,  # as in the published code; null: the recommended form
    ) -> None:
        super().__init__()
        source = negatives.source or "bank"
        if source != "bank" and (compat is not None or positive == "related"):
            raise ValueError(f"crd: compat and positive: related need negatives of source bank, got {source}")
        if compat is not None:
            given = {"z": z, "directions": directions, "draw": negatives.draw, "place": negatives.place}
            if {z, directions, negatives.draw, negatives.place} & {"running", "learned", "student", "all", "host"}:
                raise ValueError(
                    "compat: repdistiller sets z: first, both directions and a draw for each pair, on the device; "
                    f"leave {', '.join(given)} out, got {', '.join(map(str, given.values()))}"
                )
            negatives, z, directions = replace(negatives, draw="sample"), "first", "both"
        directions = directions or "student"
        self.sides = Sides("crd", student, teacher, pairs, dim=dim, temperature=temperature, negatives=negatives,
                           default="bank", directions=directions, match=positive, eager=compat is not None)  # fmt: skip
        self.needs_labels, self.needs_groups = self.sides.needs_labels, self.sides.needs_groups
        self.relates_pairs = self.sides.relates_pairs
        self.count = negatives.count if source == "bank" else None
        self.epsilon = EPSILON * pairs / negatives.count if compat else 0.0
        self.z = z
        if directions == "student":
            self.sides.heads.teacher.requires_grad_(False)
        self.level = 1 / (2 * dim * temperature**2)  # ln E exp(cosine / temperature), to second order
        closed = torch.full((len(self.sides.pools),), self.level)
        self.learned = nn.Parameter(closed) if z == "learned" else None
        self.register_buffer("log_z", closed * (math.nan if z in ("first", "running") else 1), persistent=False)
        self.is_settled = z not in ("first", "running")  # True: Z need not be measured any more

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; the memo holds the rows for the pools, and ln Z / N where it is measured."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            meetings, memo = self.sides.meet(student, teacher, batch)
            log_z = self.log_z if self.learned is None else self.learned
            if self._measures:
                measured = self._measure(meetings)
                memo = (*memo, measured.expand(len(batch.index), -1))
                log_z = torch.where(log_z.isnan(), measured, log_z)
            elif not self.is_settled:
                log_z = torch.full_like(log_z, self.level)
            head = partial(nce, negatives=self.count, epsilon=self.epsilon)
            losses = [
                contrast(head, anchors, candidates, scale=self.sides.scale, bias=bias)
                for (anchors, candidates), bias in zip(meetings, log_z, strict=True)
            ]
        return Outcome(sum(losses[1:], losses[0]) / len(batch.index), memo)

    def remember(self, *memo: Tensor) -> None:
        """Stores both sides in the pools and updates ln Z / N."""
        if self._measures:
            memo, measured = memo[:-1], memo[-1]
            level = measured.logsumexp(0) - math.log(len(measured))  # equal on all ranks, not across micro-batches
            followed = level if self.z == "first" else PACE * self.log_z + (1 - PACE) * level
            self.log_z.copy_(torch.where(self.log_z.isnan(), level, self.log_z if self.z == "first" else followed))
            self.is_settled = self.z == "first"
        if memo:
            self.sides.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """The pools' state, and ln Z / N where it is measured."""
        return self.sides.memory() | ({"log_z": self.log_z} if self.z in ("first", "running") else {})

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both sides through their heads, unit length."""
        return self.sides.project(student, teacher)

    @property
    def _measures(self) -> bool:
        """True if this step measures Z; `z: first` waits until all rows of the bank are written."""
        return not self.is_settled and not (self.z == "first" and self.sides.of_teacher.is_filling)

    def _measure(self, meetings: list[Meeting]) -> Float[Tensor, " directions"]:
        """Ln of the mean of exp(score) over all ranks' anchors, per direction; a second pass over the scores."""
        own = torch.stack([log_sum_exp(anchors, candidates, self.sides.scale) for anchors, candidates in meetings])
        total, count = gather(own[None]).logsumexp(0).unbind(1)
        return total - count
