"""Supervised contrastive learning (Khosla et al. 2020, https://arxiv.org/abs/2004.11362)."""

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from crossmodal.contrast.losses import infonce, infonce_in
from crossmodal.contrast.pool import PairIds
from crossmodal.contrast.scores import Candidates, Mask, Relate, contrast
from crossmodal.multiview import Multiview, Pairings, Views, everyone, scale_of
from crossmodal.objectives import Outcome


class SupCon(Multiview):
    """An anchor's positives are the other views of its pair and all views of pairs with its label; in nats.

    `out` is the mean over positives of -ln softmax (eq. 2), `in` the -ln of their mean softmax (eq. 3), which is never
    above it. Candidates are all rows of the joint batch, of its own view and of those that it meets, but its own row.
    With classes collapsed and far apart `out` ends at the ln of the number of positives, not at 0. Where no two pairs
    share a label and there are two views, it is NT-Xent.

    A pair without a label has only its own views. The mean is over anchors that have a positive, which with a single
    view are those that share a label; the published code counts all, and multiplies by temperature / 0.07, which
    `base_temperature` does here.

    Raises:
        ValueError: an option is out of its range.
    """

    scale: Tensor  # inverse temperature
    needs_labels = True
    reads_every_key = True
    takes_one_view = True

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        temperature: float = 0.1,  # divides cosines
        form: Literal["out", "in"] = "out",  # mean of the logarithms, as published the better, or logarithm of the mean
        base_temperature: float | None = None,  # the loss times temperature over this; null: as it is
    ) -> None:
        super().__init__()
        if form not in ("out", "in"):
            raise ValueError(f"form must be out or in, got {form!r}")
        if base_temperature is not None and not base_temperature > 0:
            raise ValueError(f"base_temperature must be above 0, got {base_temperature}")
        self.register_buffer("scale", scale_of("supcon", temperature), persistent=False)
        self.head = {"out": infonce, "in": infonce_in}[form]
        self.factor = 1.0 if base_temperature is None else temperature / base_temperature

    def forward(self, views: Views) -> Outcome:
        """The loss over all views that meet others or, where there is but one view, over that by labels alone."""
        rows, known = everyone(views, gathers=True)
        by_view = rows.unflatten(0, (len(views.keys), -1))
        label = known.key[: by_view.shape[1]]
        losses, counts = [], []
        for anchor in views.anchors:
            seen = sorted({anchor, *views.partners(anchor)})
            picked = rows if len(seen) == len(by_view) else by_view[seen].flatten(0, 1)
            own = torch.arange(len(seen)).repeat_interleave(len(label)) == seen.index(anchor)
            held = PairIds(known.index[: len(label)].repeat(len(seen)), label.repeat(len(seen)))
            candidates = Candidates(picked, _relate(views.known, held, own.to(label.device)))
            losses.append(contrast(self.head, views.queries[anchor], candidates, scale=self.scale,
                                   bias=torch.zeros_like(self.scale)))  # fmt: skip
            counts.append(_anchors(held, len(label), alone=len(seen) == 1))
        ranks = len(label) // len(views.index)
        return Outcome(self.factor * torch.stack(losses).sum() * ranks / torch.stack(counts).sum().clamp(min=1))


def _relate(anchors: PairIds, candidates: PairIds, own: Bool[Tensor, " candidates"]) -> Relate:
    """Positive and valid candidates of some anchors, whose `own` view's row of their pair is neither."""

    def relate(piece: slice | Tensor) -> tuple[Mask, Mask]:
        pair = anchors.index[piece, None] == candidates.index
        label = anchors.key[piece, None]
        alike = pair | ((label == candidates.key) & (label >= 0))
        return alike & ~(pair & own), ~alike

    return relate


def _anchors(known: PairIds, pairs: int, *, alone: bool) -> Tensor:
    """How many rows of a view have a positive; where there is no other view, those that share another pair's label."""
    index, label = known.index[:pairs], known.key[:pairs]
    if not alone:
        return label.new_tensor(pairs)
    alike = (label[:, None] == label) & (index[:, None] != index)
    return (alike.any(1) & (label >= 0)).sum()
