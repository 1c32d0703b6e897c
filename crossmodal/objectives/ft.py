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
    """Trains the student's last map, through a translator, to predict compressed factors of the teacher's last map.

    A paraphraser, an autoencoder, learns the teacher's factors in a preparation phase (eq. 1) and is then frozen. The
    translator, three convolutions with batch norm, is trained with the student. If sizes differ, the larger factors are
    average-pooled. The loss is the sum of absolute differences of both sides' factors, each scaled to unit length (eq.
    3 with p = 1), a mean over the batch.

    `compat: repdistiller` is the mean over places of the absolute difference of attentions, the factors' means of
    squares over channels at unit length; its published weight is 200. It ignores the order and the sign of factors, so
    the default is the paper's form. That is a sum: divide a weight meant for the mean of absolute differences by
    channels * height * width of the factors.

    Raises:
        ValueError: there is no teacher, a network has no map, `rate` leaves no factor, or, with `compat`, the common
            size of the maps is 1x1.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        rate: float = 0.5,  # number of factors per teacher channel
        compat: Literal["repdistiller"] | None = None,  # as in the published code; null: as in the paper
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("ft compares factors of maps with a teacher's, and none is named")
        if not (student.maps and teacher.maps):
            raise ValueError(
                f"ft compares last maps, but the student has {len(student.maps)} and the teacher {len(teacher.maps)} "
                "maps; use an encoder with maps, or an objective on embeddings"
            )
        ours, theirs = student.maps[-1], teacher.maps[-1]
        factors = int(theirs[0] * rate)
        if factors < 1:
            raise ValueError(f"ft: rate must give at least one factor for {theirs[0]} teacher channels, got {rate}")
        if compat and common_size(ours, theirs) == (1, 1):
            raise ValueError("ft: compat: repdistiller compares factors by place, but the common size of the last maps "
                             "is 1x1; set compat: null")  # fmt: skip
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
        """The paraphraser, which is trained first."""
        return self.paraphraser

    def _unit(self, factors: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _"]:
        if self.compat:
            factors = factors.square().mean(1)
        return F.normalize(factors.flatten(1), dim=1)
