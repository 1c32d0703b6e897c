"""Factor transfer (Kim, Park, Kwak 2018, https://arxiv.org/abs/1802.04977)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.factors import Paraphraser, convolve
from crossmodal.objectives.common.maps import common_size, meet
from crossmodal.objectives.common.projections import widen


class FT(Objective):
    """A translation of the student's last map must be the factors by which the teacher's last map can be told.

    A paraphraser, an autoencoder, learns the teacher's factors in a preparation (eq. 1) and is frozen then; the
    translator, three convolutions with batch norm, is trained with the student. Where sizes differ, the larger factors
    are averaged down. The loss is the sum of absolute differences of both sides' factors, each a vector of unit length
    (eq. 3 with p = 1), mean over the batch.

    `compat: repdistiller` takes the mean over places of the difference of attentions, which are the factors' means of
    squares over channels, at unit length; its published weight is 200. It is blind to the order and the sign of
    factors, hence the paper's form is the default: a sum, so that a weight that was meant for the mean of all absolute
    differences is to be divided by channels * height * width of the factors.

    Raises:
        ValueError: there is no teacher, a network has no map, `rate` leaves no factor, or, as published, the maps meet
            in one point.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        rate: float = 0.5,  # factors for each of the teacher's channels
        compat: Literal["repdistiller"] | None = None,  # as the published code computes; null: as the paper
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("ft compares factors of maps with a teacher's, and none is named")
        if not (student.maps and teacher.maps):
            raise ValueError(
                f"ft compares last maps, but the student has {len(student.maps)} and the teacher {len(teacher.maps)} "
                "maps; take an encoder with maps, or an objective on embeddings"
            )
        ours, theirs = student.maps[-1], teacher.maps[-1]
        factors = int(theirs[0] * rate)
        if factors < 1:
            raise ValueError(f"ft needs a rate that leaves a factor of the teacher's {theirs[0]} channels, got {rate}")
        if compat and common_size(ours, theirs) == (1, 1):
            raise ValueError("ft: compat: repdistiller compares where factors are strong, but the last maps meet at "
                             "1x1; take compat: null")  # fmt: skip
        self.paraphraser = Paraphraser(theirs[0], factors)
        self.translator = convolve(ours[0], ours[0], factors, factors, norm=True)
        self.compat = compat

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's last map and the translator."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            with torch.no_grad():
                theirs = self.paraphraser.encoder(widen(teacher.maps[-1]))
            ours, theirs = meet(self.translator(widen(student.maps[-1])), theirs)
            difference = (self._unit(ours) - self._unit(theirs)).abs()
            return Outcome(difference.mean() if self.compat else difference.sum(1).mean())

    def preparation(self) -> Objective:
        """The paraphraser is trained first."""
        return self.paraphraser

    def _unit(self, factors: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _"]:
        if self.compat:
            factors = factors.square().mean(1)
        return F.normalize(factors.flatten(1), dim=1)
