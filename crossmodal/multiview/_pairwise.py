"""What objectives share that contrast one view with another: a temperature, and a pool of keys for each view."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from crossmodal.contrast._pool import Known, Relation
from crossmodal.contrast.heads import Head
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pools import build_pool
from crossmodal.contrast.scores import Candidates, contrast
from crossmodal.multiview._base import Views, everyone, scale_of
from crossmodal.objectives._base import Outcome


class Pairwise(nn.Module):
    """Each anchor and its own pair in another view, among other pairs.

    Raises:
        ValueError: an option is out of its range, or contradicts another; the message begins with `name`.
    """

    scale: Tensor  # inverse temperature

    def __init__(
        self,
        name: str,
        dim: int,
        views: int,
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
            raise ValueError(f"{name} takes negatives of every view from batch or gathered, got {source}; set "
                             "every_view: false")  # fmt: skip
        if apart == "group":
            raise ValueError(f"{name} keeps negatives apart by pair or label, got group")
        self.every_view = live if every_view is None else every_view
        self.needs_labels = apart == "label"
        self.relation = Relation(keyed=self.needs_labels)
        self.pools = nn.ModuleList(
            build_pool(self.negatives, self.relation, pairs, dim, name=f"view {view}") for view in range(views)
        )
        self.register_buffer("scale", scale_of(name, temperature), persistent=False)

    def contrast(self, head: Head, views: Views, bias: Tensor) -> Outcome:
        """The mean over anchors and over all that meet of the head's losses, and what the pools remember."""
        total = [
            contrast(head, views.queries[anchor], candidates, scale=self.scale, bias=bias)
            for anchor, candidates in self._meetings(views)
        ]
        memo = (views.index, views.label, views.keys.detach().transpose(0, 1)) if any(self._remembered()) else ()
        return Outcome(torch.stack(total).mean() / len(views.index), memo)

    def remember(self, *memo: Tensor) -> None:
        """Every view's pool learns its keys."""
        index, label, rows = memo
        for view, pool in enumerate(self.pools):
            pool.remember(rows[:, view], Known(index, label))  # type: ignore[operator]

    def memory(self) -> dict[str, Tensor]:
        """What the pools remember; the live tensors."""
        return {
            f"view{number}_{name}": item
            for number, remembered in enumerate(self._remembered())
            for name, item in remembered.items()
        }

    @property
    def filled(self) -> Tensor | None:
        """The share of the pools that is there; see `Pool.filled`."""
        return self.pools[0].filled  # type: ignore[return-value]

    def _meetings(self, views: Views) -> list[tuple[int, Candidates]]:
        if not self.every_view:
            return [
                (anchor, self.pools[other].candidates(views.keys[other], views.known, views.seed))  # type: ignore[operator]
                for anchor, other in views.meets
            ]
        rows, known = everyone(views, gathers=self.negatives.source == "gathered")
        masks = self.relation.masks(views.known, index=known.index[None], key=known.key[None])
        return [(anchor, Candidates(rows, masks, views.keys[other])) for anchor, other in views.meets]

    def _remembered(self) -> list[dict[str, Tensor]]:
        return [pool.remembered for pool in self.pools]  # type: ignore[misc]
