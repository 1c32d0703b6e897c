"""The interface of a multiview objective, which compares the views of a pair with each other and with other pairs."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossmodal.contrast.pool import PairIds
from crossmodal.contrast.scores import COLDEST
from crossmodal.distributed import gather, gather_with_gradient
from crossmodal.objectives import Learner, Outcome

Pairings = tuple[tuple[int, int], ...]  # (anchor, candidate) numbers of views


@dataclass(frozen=True)
class Views:
    """A batch after encoders and projection heads: one unit vector for each view of each pair.

    A view is one encoder's output for one crop. Queries are compared with keys. Keys are the queries themselves or,
    without gradient, the momentum encoders' outputs for the same crops.
    """

    queries: Float[Tensor, "views batch dim"]
    keys: Float[Tensor, "views batch dim"]
    pairings: Pairings  # views to compare, as (anchor, candidate)
    index: Int[Tensor, " batch"]  # stable number of each pair in its data set
    label: Int[Tensor, " batch"]  # class, -1 where there is none
    present: Bool[Tensor, "views batch"] | None = None  # which views a pair has; None: all
    seed: int = 0  # seed of this step's random draws; the same on every rank

    @property
    def known(self) -> PairIds:
        """Indices and labels of the pairs."""
        return PairIds(self.index, self.label)

    def ids_in(self, view: int) -> PairIds:
        """The same, with a mask of the pairs that have a view."""
        return PairIds(self.index, self.label, None if self.present is None else self.present[view])

    def both(self, anchor: int, other: int) -> Int[Tensor, " some"] | None:
        """The pairs that have both views; None: all."""
        return None if self.present is None else (self.present[anchor] & self.present[other]).nonzero()[:, 0]

    def partners(self, anchor: int) -> list[int]:
        """The views that an anchor view is compared with."""
        return [other for view, other in self.pairings if view == anchor]

    @property
    def anchors(self) -> list[int]:
        """The views that are anchors; all views if there are no pairings."""
        return sorted({view for view, _ in self.pairings}) or [*range(len(self.queries))]


class Multiview(Learner, ABC):
    """A loss over the views of a batch, with its state.

    Entries are built as ``Entry(dim, pairings, pairs, **options)``: the length of the vectors, the pairings of views,
    the number of pairs in the data set, and keyword-only options. `forward` must not change any state.
    """

    masks: ClassVar[bool] = False  # True: pairs may lack views
    needs_labels: bool = False  # True: the pairs must have labels
    takes_one_view: ClassVar[bool] = False  # True: a single view without pairings is enough
    reads_every_key: bool = False  # True: needs keys of all views; False: only of views that are candidates

    @abstractmethod
    def forward(self, views: Views) -> Outcome:
        """The loss on one batch, in float32 or better; a mean over anchors."""

    def cautions(self) -> list[str]:
        """Warnings for the user about these options with these pairings; empty for most objectives."""
        return []


def answering(pairings: Pairings) -> list[int]:
    """The views that are candidates of some anchor, by number."""
    return sorted({other for _, other in pairings})


def scale_of(name: str, temperature: float) -> Tensor:
    """The inverse temperature.

    Raises:
        ValueError: the temperature is below `COLDEST`, or not finite.
    """
    if not COLDEST <= temperature < math.inf:
        raise ValueError(f"{name} needs a finite temperature from {COLDEST}, got {temperature}")
    return torch.tensor(1 / temperature)


def everyone(views: Views, *, gathers: bool) -> tuple[Float[Tensor, "rows dim"], PairIds]:
    """The keys of all views, view by view, and of all ranks if `gathers`, with the ids of their pairs."""
    keys, index, label, present = views.keys, views.index, views.label, views.present
    if gathers:
        if present is not None:
            present = gather(present.T.long()).T.bool()
        keys = gather_with_gradient(keys.transpose(0, 1).flatten(1)).unflatten(1, (len(keys), -1)).transpose(0, 1)
        index, label = gather(index), gather(label)
    mask = None if present is None else present.flatten()
    return keys.flatten(0, 1), PairIds(index.repeat(len(keys)), label.repeat(len(keys)), mask)
