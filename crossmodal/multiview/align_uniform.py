"""Alignment and uniformity (Wang, Isola 2020, https://arxiv.org/abs/2005.10242)."""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from crossmodal.distributed import gather, gather_with_gradient
from crossmodal.multiview import Multiview, Pairings, Views
from crossmodal.objectives import Outcome


class AlignUniform(Multiview):
    """The views of a pair lie close together, and the pairs of a view far apart on the sphere.

    Alignment is the mean of |x - y|^alpha over views that meet; uniformity is ln of the mean of exp(-t |x - x'|^2) over
    the different pairs of a view, of all ranks, and the mean over views. Sources: eq. 1 and 2 of the paper. Two rows of
    the same pair are not pushed apart: a batch has them where a pair stands in for one that cannot be read. Where there
    is but one pair, its uniformity is 0.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        alpha: float = 2.0,  # power of the distance between views of a pair
        t: float = 2.0,  # inverse width of the Gaussian
        align: float = 1.0,  # weight of alignment
        uniform: float = 1.0,  # weight of uniformity
    ) -> None:
        super().__init__()
        if not (0 < alpha < math.inf and 0 < t < math.inf and 0 <= align < math.inf and 0 <= uniform < math.inf):
            raise ValueError("alpha and t must be above 0, align and uniform at least 0, and all finite, got "
                             f"{alpha}, {t}, {align} and {uniform}")  # fmt: skip
        self.alpha, self.t, self.align, self.uniform = alpha, t, align, uniform

    def forward(self, views: Views) -> Outcome:
        """The weighted sum of both."""
        aligned = torch.stack([
            _squares(views.queries[view], views.keys[other]).clamp(min=1e-12).pow(self.alpha / 2).mean()
            for view, other in views.pairings
        ]).mean()  # fmt: skip
        different = torch.pdist(gather(views.index)[:, None].double(), p=1) > 0  # of two rows, in the order of pdist
        uniform = torch.stack([self._uniformity(views.queries[view], different) for view in views.anchors]).mean()
        figures = {"alignment": aligned.detach(), "uniformity": uniform.detach()}
        return Outcome(self.align * aligned + self.uniform * uniform, figures=figures)

    def _uniformity(self, rows: Tensor, different: Bool[Tensor, " twos"]) -> Tensor:
        exponents = -self.t * torch.pdist(gather_with_gradient(rows)).square()
        count = different.sum()
        kept = exponents.masked_fill(~different, torch.finfo(exponents.dtype).min).logsumexp(0)
        return torch.where(count > 0, kept - count.clamp(min=1).double().log().to(kept), 0.0)


def _squares(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().sum(1)
