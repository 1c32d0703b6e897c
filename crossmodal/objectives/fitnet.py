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
    """A regressor on the student's features, trained with it, must give the teacher's: mean squared difference.

    On maps the regressor is a convolution, batch norm and ReLU. Where one map is a multiple of the other in size, the
    convolution's stride makes up for it; else it is 1x1, and the larger map is averaged down. On the embedding the
    regressor is linear, and the views need not be aligned, nor even be pictures.

    The loss is a mean over the batch and a map's numbers, and a sum over the pairs of maps: the published code's, with
    its weight 100. The paper's (eq. 3) is half the sum over a map's numbers: channels * height * width / 2 times this.
    Both give one hint, from a middle stage: `maps: [[1, 1]]` of three; another objective must then train the stages
    after it. The paper takes hints first and trains on labels after that; here, as in the published code, all terms are
    minimised together. Where sizes differ otherwise than by a factor of 2, that code has a convolution without padding,
    whose kernel can be nearly as large as the map.

    Raises:
        ValueError: there is no teacher, maps cannot meet, or `maps` are chosen for embeddings.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        on: Literal["maps", "embedding"] = "maps",  # what is compared; maps need aligned views
        maps: list[tuple[int, int]] | None = None,  # numbers of student's and teacher's map to compare; null: in order
        activation: Literal["relu", "none"] = "relu",  # of the regressor on maps; none where the teacher's go below 0
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("fitnet gives the student a teacher's features to predict, and no teacher is named")
        if on == "embedding" and maps is not None:
            raise ValueError("fitnet takes maps with on: maps, got on: embedding")
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
        """On embeddings: the student's through the regressor and the teacher's as it is, unit length."""
        if self.head is None:
            return None
        return (
            F.normalize(self.head(widen(student.embedding)), dim=1),
            F.normalize(widen(teacher.embedding), dim=1),
        )


class _MapRegressor(nn.Module):
    """From the student's map to the teacher's."""

    def __init__(self, ours: Size, theirs: Size, activation: str) -> None:
        super().__init__()
        self.conv, self.norm = _convolution(ours, theirs), BatchNorm(theirs[0])
        self.activation = {"relu": nn.ReLU(), "none": nn.Identity()}[activation]

    def forward(
        self, ours: Float[Tensor, "batch _ _ _"], theirs: Float[Tensor, "batch channels _ _"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """What is predicted, and what it should be, at the size where they meet."""
        predicted, theirs = meet(self.conv(ours), theirs)
        return self.activation(self.norm(predicted)), theirs


def _convolution(ours: Size, theirs: Size) -> nn.Module:
    """To the teacher's channels, and to its height and width where both are the same multiple or part of the student's.

    For factors 1 and 2 these are the published kernels: 1x1, 3x3 with stride 2, transposed 4x4 with stride 2.
    """
    down, up = max(ours[1] // theirs[1], 1), max(theirs[1] // ours[1], 1)
    if ours[1:] == (down * theirs[1], down * theirs[2]):
        return nn.Conv2d(ours[0], theirs[0], 2 * down - 1, down, down - 1, bias=False)  # batch norm undoes a bias
    if theirs[1:] == (up * ours[1], up * ours[2]):
        return nn.ConvTranspose2d(ours[0], theirs[0], 2 * up - up % 2, up, up // 2, bias=False)
    return nn.Conv2d(ours[0], theirs[0], 1, bias=False)
