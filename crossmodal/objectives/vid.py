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

LEAST = 1e-5  # minimum variance, as published: avoids division by 0 for a perfectly predicted channel


class VID(Objective):
    """Maximises the likelihood of the teacher's features under a Gaussian predicted from the student's features.

    The loss is ((t - mean(s))^2 / v + ln v) / 2, with a variance v = softplus(rho) + 1e-5 per channel: a bound on the
    mutual information, in nats without its constants. Channels that the student cannot predict cost little, because
    their variance grows. The mean is three 1x1 convolutions with ReLU between them; for embeddings it is linear layers,
    and the views need not be aligned. If maps differ in size, the larger is average-pooled.

    The loss is a mean over the batch and a map's entries and a sum over pairs of maps, as in the published code, with
    its weight 1. The paper's is a sum over entries: channels * height * width times this. It can be negative.

    Raises:
        ValueError: there is no teacher, the maps cannot be paired, `maps` are given for embeddings, or `variance` is
            not above 1e-5.
    """

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        on: Literal["maps", "embedding"] = "maps",  # features to compare; maps need spatially aligned views
        maps: list[tuple[int, int]] | None = None,  # map indices [student, teacher] to compare; null: all, in order
        variance: float = 5.0,  # initial variance of every channel
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("vid predicts a teacher's features, and no teacher is named")
        if on == "embedding" and maps is not None:
            raise ValueError("vid: maps needs on: maps, got on: embedding")
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
                compared = [meet(widen(student.maps[mine]), widen(teacher.maps[other])) for mine, other in self.maps]
            else:
                compared = [(_point(student.embedding), _point(teacher.embedding))]
            losses = [
                _surprise(mean(ours), theirs, F.softplus(rho) + LEAST)
                for (ours, theirs), mean, rho in zip(compared, self.means, self.rhos, strict=True)
            ]
            return Outcome(torch.stack(losses).sum())

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """The predicted mean and the teacher's embedding, unit length; None on maps."""
        if self.maps:
            return None
        predicted = self.means[0](_point(student.embedding)).flatten(1)
        return F.normalize(predicted, dim=1), F.normalize(widen(teacher.embedding), dim=1)


def _mean(ours: int, theirs: int) -> nn.Module:
    """The predictor of the mean; as published, its hidden layers are as wide as the teacher's map."""
    first, second, third = (nn.Conv2d(before, theirs, 1, bias=False) for before in (ours, theirs, theirs))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def _point(embedding: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim 1 1"]:
    """An embedding as a 1x1 map, on which a 1x1 convolution is a linear layer."""
    return widen(embedding)[:, :, None, None]


def _surprise(
    predicted: Float[Tensor, "batch channels height width"],
    theirs: Float[Tensor, "batch channels height width"],
    variance: Float[Tensor, " channels"],
) -> Float[Tensor, ""]:
    errors = (predicted - theirs).square().mean((0, 2, 3))
    return (errors / variance + variance.log()).mean() / 2
