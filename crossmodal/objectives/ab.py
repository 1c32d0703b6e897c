"""Activation boundaries (Heo, Lee, Yun, Choi 2019, https://arxiv.org/abs/1811.03233)."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import common_size, meet, pair_maps
from crossmodal.objectives.common.projections import BatchNorm, widen


class AB(Objective):
    """The student's neurons must be on where the teacher's are and off where they are off, each by a margin.

    A neuron's loss is max(0, margin - s)^2 where the teacher's value is above 0, and max(0, margin + s)^2 where it is
    not (eq. 5), of values before the non-linearity. Where sizes differ, the larger map is averaged down; where channels
    or sizes differ, the student's map then passes a connector, a 1x1 convolution with batch norm.

    The loss is a mean over the batch and over a map's neurons, and a sum over the maps. The paper's is a sum over
    neurons, by `compat: paper`; the published code's too, times 0.003 and half as much for each earlier map, by
    `compat: repdistiller`. The default is the mean because sums grow with the picture, far beyond other losses. The
    published weight 1 is 12.3 here for teachers with maps of 16384, 8192 and 4096 neurons, as CIFAR's ResNet-56 has.

    As published, this trains the student's trunk in a preparation, and is left out when the other objectives come.

    Raises:
        ValueError: there is no teacher, a network does not tell what its maps are before their non-linearity, maps
            cannot meet, or `margin` is not above 0.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        margin: float = 1.0,  # distance from 0 beyond which a neuron on the right side costs nothing
        maps: list[tuple[int, int]] | None = None,  # numbers of student's and teacher's map to compare; null: in order
        compat: Literal["paper", "repdistiller"] | None = None,  # sums over neurons as there; null: means
        when: Literal["before", "beside", "both"] = "before",  # or beside the other objectives, or both
    ) -> None:
        super().__init__()
        self.only_prepares, self.prepares = when == "before", when != "beside"
        self.maps = pair_maps("ab", student, teacher, maps)
        assert teacher is not None
        _refuse_silent(student, teacher)
        if not 0 < margin < math.inf:
            raise ValueError(f"ab needs a finite margin above 0, got {margin}")
        self.margin = margin
        sizes = [(student.maps[mine], teacher.maps[other]) for mine, other in self.maps]
        self.connectors = nn.ModuleList(nn.Identity() if mine == other else _connect(mine[0], other[0])
                                        for mine, other in sizes)  # fmt: skip
        neurons = [other[0] * common_size(mine, other)[0] * common_size(mine, other)[1] for mine, other in sizes]
        self.scales = [_scale(compat, count, len(sizes) - 1 - place) for place, count in enumerate(neurons)]

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's maps and the connectors."""
        assert teacher is not None
        losses = []
        with torch.autocast(student.embedding.device.type, enabled=False):
            for (mine, other), connector, scale in zip(self.maps, self.connectors, self.scales, strict=True):
                ours, theirs = meet(widen(student.preactivations[mine]), widen(teacher.preactivations[other]))
                losses.append(scale * self._compare(connector(ours), theirs))
            return Outcome(torch.stack(losses).sum())

    def preparation(self) -> Objective | None:
        """The student's trunk is trained by this alone first, if so asked."""
        return self if self.prepares else None

    def _compare(
        self, ours: Float[Tensor, "batch channels height width"], theirs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, ""]:
        """The sum over a map's neurons, mean over the batch."""
        right = torch.where(theirs > 0, ours, -ours)  # how far a neuron is on the teacher's side of 0
        return (self.margin - right).relu().square().sum() / len(ours)


def _connect(ours: int, theirs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), BatchNorm(theirs))


def _scale(compat: str | None, neurons: int, later: int) -> float:
    """What a map's sum is multiplied by; `later` is the number of maps that come after it."""
    return {None: 1 / neurons, "paper": 1.0, "repdistiller": 0.003 / 2**later}[compat]


def _refuse_silent(student: Spec, teacher: Spec) -> None:
    for name, spec in (("student", student), ("teacher", teacher)):
        if not spec.preactivations:
            raise ValueError(
                f"ab compares maps before their last non-linearity, and the {name}'s encoder does not tell them; take "
                "one that does, such as convnet, or an objective on maps, such as at"
            )
