"""Supervised contrastive learning (Khosla et al. 2020, https://arxiv.org/abs/2004.11362)."""

from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from crossmodal.contrast.losses import infonce, infonce_in
from crossmodal.contrast.pool import PairIds
from crossmodal.contrast.scores import Candidates, Mask, Relate, contrast
from crossmodal.multiview import Multiview, Pairings, Views, everyone, scale_of
from crossmodal.multiview.common.pools import places
from crossmodal.objectives import Outcome


class SupCon(Multiview):
    """Supervised contrastive loss: the positives are an anchor's other views and all views of its class; in nats.

    `out` is the mean over positives of -ln softmax (eq. 2), `in` the -ln of their mean softmax (eq. 3), which is never
    larger. Candidates are all rows of the joint batch in the anchor's own view and its candidate views, except its own
    row. With classes collapsed and far apart, `out` ends at ln of the number of positives, not at 0. If no two pairs
    share a label and there are two views, it is NT-Xent.

    An unlabelled pair has only its own views as positives. The mean is over anchors with a positive; with a single view
    these are the pairs that share a label. The published code counts all anchors, and multiplies by temperature / 0.07,
    as `base_temperature` does here.

    Raises:
        ValueError: an option is out of range.
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
        form: Literal["out", "in"] = "out",  # out: mean of logarithms (better, as published); in: logarithm of the mean
        base_temperature: float | None = None,  # multiplies the loss by temperature / base_temperature; null: no factor
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
        """The loss over all anchor views; a single view without pairings is compared by labels alone."""
        rows, known = everyone(views, gathers=True)
        by_view = rows.unflatten(0, (len(views.keys), -1))
        label = known.key[: by_view.shape[1]]
        losses, counts = [], []
        for anchor in views.anchors:
            chosen = sorted({anchor, *views.partners(anchor)})
            picked = rows if len(chosen) == len(by_view) else by_view[places(chosen, label.device)].flatten(0, 1)
            own = torch.arange(len(chosen), device=label.device).repeat_interleave(len(label)) == chosen.index(anchor)
            candidate_ids = PairIds(known.index[: len(label)].repeat(len(chosen)), label.repeat(len(chosen)))
            candidates = Candidates(picked, _relate(views.known, candidate_ids, own))
            losses.append(contrast(self.head, views.queries[anchor], candidates, scale=self.scale,
                                   bias=torch.zeros_like(self.scale)))  # fmt: skip
            counts.append(_anchors(candidate_ids, len(label), alone=len(chosen) == 1))
        ranks = len(label) // len(views.index)
        return Outcome(self.factor * torch.stack(losses).sum() * ranks / torch.stack(counts).sum().clamp(min=1))


def _relate(anchors: PairIds, candidates: PairIds, own: Bool[Tensor, " candidates"]) -> Relate:
    """Positive and valid candidates of some anchors; an anchor's own row, in view `own`, is neither."""

    def relate(piece: slice | Tensor) -> tuple[Mask, Mask]:
        pair = anchors.index[piece, None] == candidates.index
        label = anchors.key[piece, None]
        alike = pair | ((label == candidates.key) & (label >= 0))
        return alike & ~(pair & own), ~alike

    return relate


def _anchors(known: PairIds, pairs: int, *, alone: bool) -> Tensor:
    """How many rows of a view have a positive; with a single view, only rows that share another pair's label."""
    index, label = known.index[:pairs], known.key[:pairs]
    if not alone:
        return label.new_full((), pairs)
    alike = (label[:, None] == label) & (index[:, None] != index)
    return (alike.any(1) & (label >= 0)).sum()
