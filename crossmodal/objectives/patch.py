"""Dense distillation: the student predicts the teacher's features at every place of an aligned picture."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.heads import MapHead
from crossmodal.objectives.common.maps import pair_grids, resize_to
from crossmodal.objectives.common.normalisation import ChannelNormalisation
from crossmodal.objectives.common.projections import widen


class Patch(Objective):
    """Compares student and teacher at every place: maps of CNNs, or patch tokens of ViTs, on the teacher's grid.

    A head maps the student's channels to the teacher's normalised channels. The teacher's mean and covariance are
    measured per map in a pass over training batches before the first step. The student's map is average-pooled or
    bilinearly enlarged to the teacher's grid. The loss is a mean over the batch, places and pairs of maps: 1 - cosine
    from 0 to 2, or smooth L1 or squared error, which are also means over channels.

    Whitening follows PHI-S (Ranzinger et al. 2024, https://arxiv.org/abs/2410.01680, section 2), which compares it with
    other normalisations; plain cosine with a small head is as in ScaLR (Puy et al. 2024,
    https://arxiv.org/abs/2310.17504, section 3).

    Raises:
        ValueError: there is no teacher, an encoder has no maps, a chosen map does not exist, or an option is invalid.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        loss: Literal["cosine", "smooth_l1", "mse"] = "cosine",  # distance at each place
        head: Literal["linear", "mlp"] = "linear",  # from the student's channels to the teacher's
        normalise: Literal["whiten", "standardise", "centre", "none"] = "whiten",  # of the teacher's channels
        dim: int | None = 64,  # whiten: number of principal components of each map; null: all
        # map indices [student, teacher] to compare; null: the teacher's last maps on its two coarsest grids
        maps: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.maps = pair_grids("patch", student, teacher, maps)
        assert teacher is not None
        self.loss, self.needs_calibration = loss, normalise != "none"
        sizes = [(student.maps[mine][0], teacher.maps[other][0]) for mine, other in self.maps]
        self.targets = [ChannelNormalisation(theirs, normalise, dim) for _, theirs in sizes]
        self.normalisations = nn.ModuleList(self.targets)
        self.heads = nn.ModuleList(
            MapHead(ours, target.dim, head) for (ours, _), target in zip(sizes, self.targets, strict=True)
        )

    def calibrate(self, teacher: Features) -> None:
        """Adds a batch to the statistics of each of the teacher's maps."""
        for (_, other), target in zip(self.maps, self.targets, strict=True):
            target.add(teacher.maps[other])

    def finish_calibration(self) -> None:
        """Computes the normalisation of each map."""
        for target in self.targets:
            target.finish()

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's maps and the heads."""
        assert teacher is not None
        losses = []
        with torch.autocast(student.embedding.device.type, enabled=False):
            for (mine, other), head, normalised in zip(self.maps, self.heads, self.targets, strict=True):
                target = normalised(teacher.maps[other])
                losses.append(self._distance(head(resize_to(widen(student.maps[mine]), target.shape[2:])), target))
        return Outcome(torch.stack(losses).mean())

    def _distance(
        self, ours: Float[Tensor, "batch dim height width"], target: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, ""]:
        if self.loss == "cosine":
            return 1 - F.cosine_similarity(ours, target, dim=1).mean()
        return F.smooth_l1_loss(ours, target) if self.loss == "smooth_l1" else F.mse_loss(ours, target)
