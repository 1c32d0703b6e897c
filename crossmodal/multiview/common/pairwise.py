"""Shared by objectives that contrast one view with another: a temperature, and a pool of keys for each view."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from crossmodal.contrast.build import build_pool
from crossmodal.contrast.losses import Head
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Relation
from crossmodal.contrast.scores import Candidates, contrast
from crossmodal.distributed import gather
from crossmodal.multiview import Pairings, Views, answering, everyone, scale_of
from crossmodal.multiview.common.pools import ViewPools
from crossmodal.objectives import Outcome


class Pairwise(nn.Module):
    """Contrasts each anchor's own pair in another view with other pairs.

    Raises:
        ValueError: an option is out of range, or contradicts another; the message begins with `name`.
    """

    scale: Tensor  # inverse temperature

    def __init__(
        self,
        name: str,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        temperature: float,
        negatives: Negatives,
        default: Literal["gathered", "bank"],
        every_view: bool | None = False,
    ) -> None:
        super().__init__()
        self.negatives = replace(negatives, source=negatives.source or default)
        source, apart = self.negatives.source, self.negatives.apart
        live = source in ("batch", "gathered")
        if every_view and not live:
            raise ValueError(f"{name}: every_view needs negatives of source batch or gathered, got {source}; set "
                             "every_view: false")  # fmt: skip
        if apart == "group":
            raise ValueError(f"{name}: negatives.apart must be pair or label, got group")
        self.every_view = live if every_view is None else every_view
        self.needs_labels = apart == "label"
        self.relation = Relation(keyed=self.needs_labels)
        self.pools = ViewPools({
            view: build_pool(self.negatives, self.relation, pairs, dim, name=f"view {view}")
            for view in answering(pairings)
        })  # fmt: skip
        self.register_buffer("scale", scale_of(name, temperature), persistent=False)

    def contrast(self, head: Head, views: Views, bias: Tensor) -> Outcome:
        """The mean loss over pairings and anchors, with the memo for the pools."""
        losses, count = [], 0
        for (anchor, other), every in self._meetings(views):
            both = views.both(anchor, other)
            rows = views.queries[anchor] if both is None else views.queries[anchor][both]
            candidates = every if both is None else every.only(both)
            losses.append(contrast(head, rows, candidates, scale=self.scale, bias=bias))
            count += len(rows)
        anchors = gather(losses[0].new_full((1,), count)).mean()  # mean over ranks
        return Outcome(torch.stack(losses).sum() / anchors.clamp(min=1), self.pools.memo(views))

    def _meetings(self, views: Views) -> list[tuple[tuple[int, int], Candidates]]:
        if not self.every_view:
            choices = {
                other: self.pools[other].choose(views.ids_in(other), views.seed) for other in answering(views.pairings)
            }
            return [
                (meet, self.pools[meet[1]].candidates(views.keys[meet[1]], choices[meet[1]])) for meet in views.pairings
            ]
        rows, known = everyone(views, gathers=self.negatives.source == "gathered")
        valid = None if known.there is None else known.there[None]
        masks = self.relation.masks(views.known, index=known.index[None], key=known.key[None], valid=valid)
        return [(meet, Candidates(rows, masks, views.keys[meet[1]])) for meet in views.pairings]
