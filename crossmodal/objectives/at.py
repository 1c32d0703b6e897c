"""Attention transfer (Zagoruyko, Komodakis 2017, https://arxiv.org/abs/1612.03928, section 3.1)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import meet, pair_maps, refuse_points
from crossmodal.objectives.common.projections import widen


class AT(Objective):
    """Matches where the student's and the teacher's maps are strong, whatever their channels.

    A map's attention is the sum over channels of |value|^power, flattened over places and scaled to unit length. The
    loss is half the length of the difference of student's and teacher's attention (eq. 2), a mean over the batch and a
    sum over pairs of maps, each from 0 to 0.71. The paper's weight, which it divides by the batch, equals 1000 /
    (height * width) here: 15.6 for maps of 8 x 8.

    `compat: repdistiller` is the mean squared difference over batch and places, with the published weight 1000. If
    sizes differ, it pools the larger map before attention. Its value falls with the number of places; hence the
    default.

    Raises:
        ValueError: there is no teacher, the maps cannot be paired, all common sizes are 1x1, or `power` is below 1.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        power: float = 2.0,  # exponent of a map's absolute values; higher values emphasise the strongest places
        maps: list[tuple[int, int]] | None = None,  # map indices [student, teacher] to compare; null: all, in order
        compat: Literal["repdistiller"] | None = None,  # as in the published code; null: as in the paper
    ) -> None:
        super().__init__()
        self.maps = pair_maps("at", student, teacher, maps)
        refuse_points("at", student, teacher, self.maps)
        if not 1 <= power < math.inf:
            raise ValueError(f"at needs a finite power of at least 1, got {power}")
        self.power, self.compat = power, compat

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's maps."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            losses = [self._compare(widen(student.maps[mine]), widen(teacher.maps[other])) for mine, other in self.maps]
        return Outcome(torch.stack(losses).sum())

    def _compare(self, ours: Float[Tensor, "batch _ _ _"], theirs: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, ""]:
        if self.compat:
            ours, theirs = meet(ours, theirs)
        ours, theirs = meet(self._strength(ours), self._strength(theirs))
        difference = F.normalize(ours.flatten(1), dim=1) - F.normalize(theirs.flatten(1), dim=1)
        return difference.square().mean() if self.compat else torch.linalg.vector_norm(difference, dim=1).mean() / 2

    def _strength(self, item: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch 1 height width"]:
        """The sum of |value|^power over channels; computed as a norm, so autograd stores no copy of the map."""
        return torch.linalg.vector_norm(item, self.power, dim=1, keepdim=True).pow(self.power)
