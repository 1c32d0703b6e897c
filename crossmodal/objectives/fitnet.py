"""FitNets: hints from the teacher's features (Romero et al. 2015, https://arxiv.org/abs/1412.6550, section 2.2)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import meet, pair_maps
from crossmodal.objectives.common.projections import BatchNorm, widen

Size = tuple[int, int, int]


class FitNet(Objective):
    """A regressor on the student's features predicts the teacher's features; mean squared error.

    On maps the regressor is a convolution, batch norm and ReLU. If one map's size is a multiple of the other's, the
    convolution is strided to match; otherwise it is 1x1 and the larger map is average-pooled. On embeddings the
    regressor is linear, and the views need not be aligned or be images.

    The loss is a mean over the batch and a map's entries and a sum over pairs of maps, as in the published code, with
    its weight 100. The paper's (eq. 3) is half the sum over a map's entries: channels * height * width / 2 times this.
    Both give one hint, from a middle stage: `maps: [[1, 1]]` of three. Another objective must then train the later
    stages. The paper trains on hints first and on labels afterwards; here, as in the published code, all terms are
    minimised together. If sizes differ by another factor than 2, that code uses an unpadded convolution, whose kernel
    can be nearly as large as the map.

    Raises:
        ValueError: there is no teacher, the maps cannot be paired, or `maps` are given for embeddings.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        on: Literal["maps", "embedding"] = "maps",  # features to compare; maps need spatially aligned views
        maps: list[tuple[int, int]] | None = None,  # map indices [student, teacher] to compare; null: all, in order
        activation: Literal["relu", "none"] = "relu",  # on maps; use none if teacher maps can be negative
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("fitnet gives the student a teacher's features to predict, and no teacher is named")
        if on == "embedding" and maps is not None:
            raise ValueError("fitnet: maps needs on: maps, got on: embedding")
        self.needs_alignment = on == "maps"
        self.maps = pair_maps("fitnet", student, teacher, maps) if on == "maps" else []
        self.regressors = nn.ModuleList(
            _MapRegressor(student.maps[mine], teacher.maps[other], activation) for mine, other in self.maps
        )
        self.head = nn.Linear(student.dim, teacher.dim) if on == "embedding" else None

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student and the regressors."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            if self.head is not None:
                return Outcome(F.mse_loss(self.head(widen(student.embedding)), widen(teacher.embedding)))
            losses = [
                F.mse_loss(*regressor(widen(student.maps[mine]), widen(teacher.maps[other])))
                for (mine, other), regressor in zip(self.maps, self.regressors, strict=True)
            ]
            return Outcome(torch.stack(losses).sum())

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """The student's embedding through the regressor and the teacher's as it is, unit length; None on maps."""
        if self.head is None:
            return None
        return (
            F.normalize(self.head(widen(student.embedding)), dim=1),
            F.normalize(widen(teacher.embedding), dim=1),
        )


class _MapRegressor(nn.Module):
    """Predicts the teacher's map from the student's."""

    def __init__(self, ours: Size, theirs: Size, activation: str) -> None:
        super().__init__()
        self.conv, self.norm = _convolution(ours, theirs), BatchNorm(theirs[0])
        self.activation = {"relu": nn.ReLU(), "none": nn.Identity()}[activation]

    def forward(
        self, ours: Float[Tensor, "batch _ _ _"], theirs: Float[Tensor, "batch channels _ _"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """The prediction and its target, at their common size."""
        predicted, theirs = meet(self.conv(ours), theirs)
        return self.activation(self.norm(predicted)), theirs


def _convolution(ours: Size, theirs: Size) -> nn.Module:
    """A convolution to the teacher's channels, strided if both sides differ by the same whole factor.

    Factors 1 and 2 give the published kernels: 1x1, 3x3 with stride 2, transposed 4x4 with stride 2.
    """
    down, up = max(ours[1] // theirs[1], 1), max(theirs[1] // ours[1], 1)
    if ours[1:] == (down * theirs[1], down * theirs[2]):
        return nn.Conv2d(ours[0], theirs[0], 2 * down - 1, down, down - 1, bias=False)  # batch norm cancels a bias
    if theirs[1:] == (up * ours[1], up * ours[2]):
        return nn.ConvTranspose2d(ours[0], theirs[0], 2 * up - up % 2, up, up // 2, bias=False)
    return nn.Conv2d(ours[0], theirs[0], 1, bias=False)
