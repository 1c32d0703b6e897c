"""Neuron selectivity transfer (Huang, Wang 2017, https://arxiv.org/abs/1707.01219)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import meet, pair_maps, refuse_points
from crossmodal.objectives.common.projections import widen

Channels = Float[Tensor, "batch _ places"]


class NST(Objective):
    """Matches what the student's and the teacher's channels respond to, by the maximum mean discrepancy (MMD).

    A sample's channels, each scaled to unit length over all places, are samples from a distribution. The loss is the
    squared MMD of the student's s and the teacher's t: mean k(s, s') + mean k(t, t') - 2 mean k(s, t), each over all
    pairs of channels (including a channel with itself); a mean over the batch and a sum over pairs of maps. With x.y
    the dot product of two channels, k is x.y ("linear"), (x.y)^2 ("polynomial", the paper's d = 2 and c = 0), or
    exp(-|x - y|^2 / 2v) ("gaussian"), v the sample's mean |s - t|^2, without gradient. "polynomial" is the published
    code's kernel; its weight 50 applies as it is.

    Everything is a matrix product: per sample, no tensor exceeds channels^2 or channels * places entries.

    Raises:
        ValueError: there is no teacher, the maps cannot be paired, or all pairs have a common size of 1x1.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial",  # kernel that compares channels
        maps: list[tuple[int, int]] | None = None,  # map indices [student, teacher] to compare; null: all, in order
    ) -> None:
        super().__init__()
        self.maps = pair_maps("nst", student, teacher, maps)
        refuse_points("nst", student, teacher, self.maps)
        self.discrepancy = {"polynomial": _polynomial, "linear": _linear, "gaussian": _gaussian}[kernel]

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's maps."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            losses = []
            for mine, other in self.maps:
                pair = meet(widen(student.maps[mine]), widen(teacher.maps[other]))
                ours, theirs = (F.normalize(item.flatten(2), dim=2) for item in pair)
                losses.append(self.discrepancy(ours, theirs).mean())
        return Outcome(torch.stack(losses).sum())


def _linear(ours: Channels, theirs: Channels) -> Float[Tensor, " batch"]:
    return (ours.mean(1) - theirs.mean(1)).square().sum(1)


def _polynomial(ours: Channels, theirs: Channels) -> Float[Tensor, " batch"]:
    return _squares(ours, ours) + _squares(theirs, theirs) - 2 * _squares(ours, theirs)


def _squares(first: Channels, second: Channels) -> Float[Tensor, " batch"]:
    """The mean of squared dot products, by the smaller of two matrix products: over channels or over places."""
    products, places = first.shape[1] * second.shape[1], first.shape[2] ** 2
    if products <= places:
        return (first @ second.mT).square().mean((1, 2))
    return ((first.mT @ first) * (second.mT @ second)).sum((1, 2)) / products


def _gaussian(ours: Channels, theirs: Channels) -> Float[Tensor, " batch"]:
    between = _distances(ours, theirs)
    smallest = torch.finfo(between.dtype).tiny  # the mean is 0 where all channels are equal
    double = 2 * between.detach().mean((1, 2), keepdim=True).clamp_min(smallest)
    similar = [(-each / double).exp().mean((1, 2)) for each in (_distances(ours, ours), _distances(theirs, theirs))]
    return similar[0] + similar[1] - 2 * (-between / double).exp().mean((1, 2))


def _distances(first: Channels, second: Channels) -> Float[Tensor, "batch _ _"]:
    """Squared distances, without a tensor of differences; a channel of zeros has length 0, not 1."""
    lengths = first.square().sum(2)[:, :, None] + second.square().sum(2)[:, None, :]
    return (lengths - 2 * first @ second.mT).clamp_min(0)  # rounding can make it negative
