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
    """Trains the student's neurons to be active where the teacher's are and inactive elsewhere, by a margin.

    A neuron costs max(0, margin - s)^2 where the teacher's value is above 0, and max(0, margin + s)^2 elsewhere (eq.
    5). Values are taken before the non-linearity. If sizes differ, the larger map is average-pooled to the smaller. If
    channels or sizes differ, the student's map then passes a connector: a 1x1 convolution with batch norm.

    The loss is a mean over the batch and a map's neurons, and a sum over the maps. `compat: paper` sums over neurons.
    `compat: repdistiller` does so too, times 0.003, and halves the weight for each earlier map. The default is the
    mean, because sums grow with the image, far beyond other losses. The published weight 1 equals 12.3 here for teacher
    maps of 16384, 8192 and 4096 neurons (ResNet-56 on CIFAR).

    As published, it trains the student's trunk in a preparation phase and is left out of the main phase.

    Raises:
        ValueError: there is no teacher, an encoder does not return its maps before the non-linearity, the maps cannot
            be paired, or `margin` is not above 0.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        margin: float = 1.0,  # how far past 0, on the correct side, a neuron's value must be to cost nothing
        maps: list[tuple[int, int]] | None = None,  # map indices [student, teacher] to compare; null: all, in order
        compat: Literal["paper", "repdistiller"] | None = None,  # sum over neurons as in either source; null: mean
        when: Literal["before", "beside", "both"] = "before",  # before the main phase, within it, or both
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
        """This objective trains the student's trunk alone first, unless `when` is beside."""
        return self if self.prepares else None

    def _compare(
        self, ours: Float[Tensor, "batch channels height width"], theirs: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, ""]:
        """The sum over a map's neurons and the mean over the batch."""
        right = torch.where(theirs > 0, ours, -ours)  # above 0 where the neuron is on the teacher's side of 0
        return (self.margin - right).relu().square().sum() / len(ours)


def _connect(ours: int, theirs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), BatchNorm(theirs))


def _scale(compat: str | None, neurons: int, later: int) -> float:
    """The factor of a map's sum; `later` counts the maps after it."""
    return {None: 1 / neurons, "paper": 1.0, "repdistiller": 0.003 / 2**later}[compat]


def _refuse_silent(student: Spec, teacher: Spec) -> None:
    for name, spec in (("student", student), ("teacher", teacher)):
        if not spec.preactivations:
            raise ValueError(
                f"ab compares maps before their last non-linearity, and the {name}'s encoder does not return them; use "
                "one that does, such as convnet, or another objective on maps, such as at"
            )
