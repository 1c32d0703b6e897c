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
PACE = 0.9  # share of ln Z that stays at a step, where it is running


class CRD(Objective):
    """The student's embedding must tell its own pair's teacher embedding from other pairs'.

    Both embeddings pass a linear head and are made unit length; the teacher's head stays the random projection that it
    begins as. A bank holds one row per pair, of the teacher's side; the student is contrasted with it by
    `contrast.losses.nce`. With `directions: both`, as published, another bank holds the student's side, and contrasting
    the teacher's with that trains its head. The teacher itself is frozen. What is live (a live positive, negatives of
    the batch) carries gradient to its side too. No label is used unless asked for.

    The loss is a sum over negatives, and over both directions where asked, and a mean over the batch, so the published
    weight 0.8 applies. Negatives of a pair of the batch, or of the anchor's label, are left out and the others count
    for them. Where there are no more pairs than negatives, the expectation of the draw over all pairs is computed
    instead of drawing: the same loss without its noise, and faster.

    Departures from the published code, all undone by `compat: repdistiller`: one direction; Z is its closed form for
    random directions, which is what that code measures on its first batch; until a pair's row is first written, in the
    first pass, it is contrasted with its live batch and not with noise; a row is no negative of its own pair; a draw is
    shared by the batch. `compat` also adds that code's 1e-7 to K / N. Labels are learned with the rows, so that with
    `apart: label` a pair is apart from those it has not yet seen only after the first pass.

    The closed form, 1 / (2 dim temperature^2), is ln E exp(cosine / temperature) to second order: 0.80 for 0.79 at the
    defaults, but 6.4 for 5.1 with 16 numbers, and 39 for 32 at a temperature of 0.01, where hardly a negative counts.
    `z: first` measures it when all rows of a bank are written, and takes the closed form until then.

    Raises:
        ValueError: an option is out of its range, contradicts another, or there is no teacher.
    """

    log_z: Tensor  # ln(Z / N) of each direction, where it is not learned

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        dim: int = 128,  # of the space in which both sides are compared
        temperature: float = 0.07,  # divides cosines
        negatives: Negatives = Negatives(),  # where they come from; the default source is bank
        positive: Literal["bank", "live", "related"] = "bank",  # as remembered; live (collapsed on doom); of its label
        z: Literal["closed", "first", "running", "learned"] = "closed",  # closed form, as measured once or on, trained
        directions: Literal["student", "both"] | None = None,  # student, the default: the teacher's head stays as it is
        compat: Literal["repdistiller"] | None = None,  # as the published code computes; null: as is best
    ) -> None:
        super().__init__()
        source = negatives.source or "bank"
        if source != "bank" and (compat is not None or positive == "related"):
            raise ValueError(f"crd takes compat and positive: related with negatives of a bank, got {source}")
        if compat is not None:
            told = {"z": z, "directions": directions, "draw": negatives.draw, "place": negatives.place}
            if {z, directions, negatives.draw, negatives.place} & {"running", "learned", "student", "all", "host"}:
                raise ValueError(
                    "compat: repdistiller has z: first, both directions and a draw for each pair, from the device; "
                    f"leave {', '.join(told)} out, got {', '.join(map(str, told.values()))}"
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
        self.is_settled = z not in ("first", "running")  # nothing is left to measure

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; the memo is what the pools remember, and ln Z / N where it is measured."""
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
        """The pools learn both sides; ln Z / N is set once, or follows."""
        if self._measures:
            memo, measured = memo[:-1], memo[-1]
            level = measured.logsumexp(0) - math.log(len(measured))  # all ranks measured the same, all pieces their own
            followed = level if self.z == "first" else PACE * self.log_z + (1 - PACE) * level
            self.log_z.copy_(torch.where(self.log_z.isnan(), level, self.log_z if self.z == "first" else followed))
            self.is_settled = self.z == "first"
        if memo:
            self.sides.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """What the pools remember, and ln Z / N where it is measured."""
        return self.sides.memory() | ({"log_z": self.log_z} if self.z in ("first", "running") else {})

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """Both sides through their heads, unit length."""
        return self.sides.project(student, teacher)

    @property
    def _measures(self) -> bool:
        """Whether this step measures Z; once and for all it is, it waits for a bank whose rows are all written."""
        return not self.is_settled and not (self.z == "first" and self.sides.of_teacher.is_filling)

    def _measure(self, meetings: list[Meeting]) -> Float[Tensor, " directions"]:
        """Ln of the mean of exp(score) over all ranks' anchors, for each direction; another pass over the scores."""
        own = torch.stack([log_sum_exp(anchors, candidates, self.sides.scale) for anchors, candidates in meetings])
        total, count = gather(own[None]).logsumexp(0).unbind(1)
        return total - count
