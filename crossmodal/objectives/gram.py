"""Structure of a picture: which places are alike (Gram anchoring, Simeoni et al. 2025, arXiv 2508.10104, section 4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import common_size, pair_grids, refuse_points, resize_to
from crossmodal.objectives.common.projections import widen


class Gram(Objective):
    """Matches the cosines between all places of a picture; no head and no calibration, so channels may differ.

    Both maps are resized to the smaller grid, and every place is scaled to unit length. The loss is the mean squared
    difference of the cosines of student and teacher over the batch, pairs of places and pairs of maps, from 0 to 4.
    `sp` compares pictures with pictures; this objective compares places within a picture.

    Raises:
        ValueError: there is no teacher, an encoder has no maps, a chosen map does not exist, all common grids are 1x1,
            or `side` is below 2.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        side: int = 32,  # maximum height and width of the grid; larger maps are average-pooled, to bound the memory
        # map indices [student, teacher] to compare; null: the teacher's last maps on its two coarsest grids
        maps: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.maps = pair_grids("gram", student, teacher, maps)
        assert teacher is not None
        refuse_points("gram", student, teacher, self.maps)
        if side < 2:
            raise ValueError(f"gram: side must be at least 2, got {side}")
        common = [common_size(student.maps[mine], teacher.maps[other]) for mine, other in self.maps]
        self.grids = [(min(height, side), min(width, side)) for height, width in common]

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's maps."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            losses = [
                F.mse_loss(_cosines(student.maps[mine], grid), _cosines(teacher.maps[other], grid))
                for (mine, other), grid in zip(self.maps, self.grids, strict=True)
            ]
        return Outcome(torch.stack(losses).mean())


def _cosines(item: Float[Tensor, "batch _ _ _"], grid: tuple[int, int]) -> Float[Tensor, "batch places places"]:
    unit = F.normalize(resize_to(widen(item), grid).flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit
