"""Variational information distillation (Ahn et al. 2019, https://arxiv.org/abs/1904.05835)."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import meet, pair_maps
from crossmodal.objectives.common.projections import widen

LEAST = 1e-5  # of a variance, as published: a channel that is always right must not divide by zero


class VID(Objective):
    """The teacher's features must be likely given the student's, by a Gaussian whose mean and variance are learned.

    The loss is ((t - mean(s))^2 / v + ln v) / 2 with one variance v = softplus(rho) + 1e-5 a channel: a bound on the
    mutual information, in nats without its constants. Channels that cannot be known from the student cost little, for
    their variance grows. The mean is three 1x1 convolutions with ReLU between them, or linear layers where embeddings
    are compared, which need no aligned views. Where maps differ in size, the larger is averaged down.

    It is a mean over the batch and a map's numbers, and a sum over the pairs of maps: the published code's, with its
    weight 1. The paper's is a sum over a map's numbers: channels * height * width times this. It can be below 0.

    Raises:
        ValueError: there is no teacher, maps cannot meet, `maps` are chosen for embeddings, or `variance` is not above
            1e-5.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        on: Literal["maps", "embedding"] = "maps",  # what is compared; maps need aligned views
        maps: list[tuple[int, int]] | None = None,  # numbers of student's and teacher's map to compare; null: in order
        variance: float = 5.0,  # of every channel at the start
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("vid predicts a teacher's features, and no teacher is named")
        if on == "embedding" and maps is not None:
            raise ValueError("vid takes maps with on: maps, got on: embedding")
        if not LEAST < variance < math.inf:
            raise ValueError(f"vid needs a finite variance above {LEAST}, got {variance}")
        self.needs_alignment = on == "maps"
        self.maps = pair_maps("vid", student, teacher, maps) if on == "maps" else []
        channels = [(student.maps[mine][0], teacher.maps[other][0]) for mine, other in self.maps]
        channels = channels or [(student.dim, teacher.dim)]
        self.means = nn.ModuleList(_mean(ours, theirs) for ours, theirs in channels)
        start = variance - LEAST
        start += math.log(-math.expm1(-start))  # the inverse of softplus
        self.rhos = nn.ParameterList(torch.full((theirs,), start) for _, theirs in channels)

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student, the means and the variances."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            if self.maps:
                met = [meet(widen(student.maps[mine]), widen(teacher.maps[other])) for mine, other in self.maps]
            else:
                met = [(_point(student.embedding), _point(teacher.embedding))]
            losses = [
                _surprise(mean(ours), theirs, F.softplus(rho) + LEAST)
                for (ours, theirs), mean, rho in zip(met, self.means, self.rhos, strict=True)
            ]
            return Outcome(torch.stack(losses).sum())

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """On embeddings: the student's through the mean and the teacher's as it is, unit length."""
        if self.maps:
            return None
        predicted = self.means[0](_point(student.embedding)).flatten(1)
        return F.normalize(predicted, dim=1), F.normalize(widen(teacher.embedding), dim=1)


def _mean(ours: int, theirs: int) -> nn.Module:
    """As published: the hidden layers are as wide as the teacher's map."""
    first, second, third = (nn.Conv2d(before, theirs, 1, bias=False) for before in (ours, theirs, theirs))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def _point(embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim 1 1"]:
    """As a map of one place, where a 1x1 convolution is a linear layer."""
    return widen(embedding)[:, :, None, None]


def _surprise(
    predicted: Float[Tensor, "batch channels height width"],
    theirs: Float[Tensor, "batch channels height width"],
    variance: Float[Tensor, " channels"],
) -> Float[Tensor, ""]:
    errors = (predicted - theirs).square().mean((0, 2, 3))
    return (errors / variance + variance.log()).mean() / 2
