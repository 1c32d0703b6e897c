"""Alignment and uniformity (Wang, Isola 2020, https://arxiv.org/abs/2005.10242)."""

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from crossmodal.distributed import gather, gather_with_gradient
from crossmodal.multiview import Multiview, Pairings, Views
from crossmodal.objectives import Outcome


class AlignUniform(Multiview):
    """Pulls the views of a pair together (alignment) and spreads each view's pairs over the sphere (uniformity).

    Alignment is the mean of |x - y|^alpha over paired views. Uniformity is ln of the mean of exp(-t |x - x'|^2) over
    the different pairs of a view, on all ranks; a mean over views. Sources: the paper's eq. 1 and 2. Two rows of the
    same pair are not pushed apart; a batch has them if a pair replaces an unreadable one. With a single pair,
    uniformity is 0.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        alpha: float = 2.0,  # exponent of the distance between views of a pair
        t: float = 2.0,  # inverse width of the Gaussian kernel
        align: float = 1.0,  # weight of alignment
        uniform: float = 1.0,  # weight of uniformity
    ) -> None:
        super().__init__()
        if not (0 < alpha < math.inf and 0 < t < math.inf and 0 <= align < math.inf and 0 <= uniform < math.inf):
            raise ValueError("alpha and t must be above 0, align and uniform at least 0, and all finite, got "
                             f"{alpha}, {t}, {align} and {uniform}")  # fmt: skip
        self.alpha, self.t, self.align, self.uniform = alpha, t, align, uniform

    def forward(self, views: Views) -> Outcome:
        """The weighted sum of alignment and uniformity."""
        aligned = torch.stack([
            _squares(views.queries[view], views.keys[other]).clamp(min=1e-12).pow(self.alpha / 2).mean()
            for view, other in views.pairings
        ]).mean()  # fmt: skip
        different = torch.pdist(gather(views.index)[:, None].double(), p=1) > 0  # row pairs, in pdist's order
        uniform = torch.stack([self._uniformity(views.queries[view], different) for view in views.anchors]).mean()
        figures = {"alignment": aligned.detach(), "uniformity": uniform.detach()}
        return Outcome(self.align * aligned + self.uniform * uniform, figures=figures)

    def _uniformity(self, rows: Tensor, different: Bool[Tensor, " twos"]) -> Tensor:
        exponents = -self.t * torch.pdist(gather_with_gradient(rows)).square()
        count = different.sum()
        total = exponents.masked_fill(~different, torch.finfo(exponents.dtype).min).logsumexp(0)
        return torch.where(count > 0, total - count.clamp(min=1).double().log().to(total), 0.0)


def _squares(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).square().sum(1)
