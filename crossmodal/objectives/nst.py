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
    """The student's channels must be spread, over what they are selective to, as the teacher's are.

    The channels of one sample's map, each a vector of unit length over all places, are drawn from a distribution. The
    loss is the squared maximum mean discrepancy of the student's and the teacher's: mean k(s, s') + mean k(t, t') -
    2 mean k(s, t), each over all pairs of channels (also of a channel with itself); mean over the batch, sum over the
    pairs of maps. With x.y the product of two channels, k is x.y ("linear"), (x.y)^2 ("polynomial", the paper's d = 2
    and c = 0), or exp(-|x - y|^2 / 2v) ("gaussian"), v the sample's mean |s - t|^2, a constant for gradients. The
    polynomial one is what the published code computes; its weight 50 applies as it is.

    All are matrix products: no tensor has more than channels^2 or channels * places numbers a sample.

    Raises:
        ValueError: there is no teacher, maps cannot meet, or all of them meet in one point.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial",  # in which channels are compared
        maps: list[tuple[int, int]] | None = None,  # numbers of student's and teacher's map to compare; null: in order
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
                met = meet(widen(student.maps[mine]), widen(teacher.maps[other]))
                ours, theirs = (F.normalize(item.flatten(2), dim=2) for item in met)
                losses.append(self.discrepancy(ours, theirs).mean())
        return Outcome(torch.stack(losses).sum())


def _linear(ours: Channels, theirs: Channels) -> Float[Tensor, " batch"]:
    return (ours.mean(1) - theirs.mean(1)).square().sum(1)


def _polynomial(ours: Channels, theirs: Channels) -> Float[Tensor, " batch"]:
    return _squares(ours, ours) + _squares(theirs, theirs) - 2 * _squares(ours, theirs)


def _squares(first: Channels, second: Channels) -> Float[Tensor, " batch"]:
    """The mean of squared products, through the smaller of two matrices: channel by channel, or place by place."""
    products, places = first.shape[1] * second.shape[1], first.shape[2] ** 2
    if products <= places:
        return (first @ second.mT).square().mean((1, 2))
    return ((first.mT @ first) * (second.mT @ second)).sum((1, 2)) / products


def _gaussian(ours: Channels, theirs: Channels) -> Float[Tensor, " batch"]:
    between = _distances(ours, theirs)
    smallest = torch.finfo(between.dtype).tiny  # where all channels are the same
    double = 2 * between.detach().mean((1, 2), keepdim=True).clamp_min(smallest)
    similar = [(-each / double).exp().mean((1, 2)) for each in (_distances(ours, ours), _distances(theirs, theirs))]
    return similar[0] + similar[1] - 2 * (-between / double).exp().mean((1, 2))


def _distances(first: Channels, second: Channels) -> Float[Tensor, "batch _ _"]:
    """Squared, without the difference of every two channels; a channel of zeros has length 0, not 1."""
    lengths = first.square().sum(2)[:, :, None] + second.square().sum(2)[:, None, :]
    return (lengths - 2 * first @ second.mT).clamp_min(0)  # rounding can give less
