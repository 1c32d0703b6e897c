"""The interface of a multiview objective: what brings the views of a pair together and keeps pairs apart."""

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

Pairings = tuple[tuple[int, int], ...]  # (anchor, candidate): views by their number


@dataclass(frozen=True)
class Views:
    """A batch as encoders and heads see it: unit vectors, one for each view of each pair.

    A view is what one encoder says of one look. Keys are what queries are compared with: the queries themselves, or
    what momentum encoders say of the same looks, without gradient.
    """

    queries: Float[Tensor, "views batch dim"]
    keys: Float[Tensor, "views batch dim"]
    pairings: Pairings  # which views are brought together, each with itself as the anchor
    index: Int[Tensor, " batch"]  # stable number of each pair in its data set
    label: Int[Tensor, " batch"]  # class, -1 where there is none
    present: Bool[Tensor, "views batch"] | None = None  # which views a pair has; None: all
    seed: int = 0  # address of the draws of this step: the same on every rank

    @property
    def known(self) -> PairIds:
        """Numbers and labels of the pairs."""
        return PairIds(self.index, self.label)

    def ids_in(self, view: int) -> PairIds:
        """The same, with what of them is there in a view."""
        return PairIds(self.index, self.label, None if self.present is None else self.present[view])

    def both(self, anchor: int, other: int) -> Int[Tensor, " some"] | None:
        """The pairs that have two views; None: all."""
        return None if self.present is None else (self.present[anchor] & self.present[other]).nonzero()[:, 0]

    def partners(self, anchor: int) -> list[int]:
        """The views that an anchor view meets."""
        return [other for view, other in self.pairings if view == anchor]

    @property
    def anchors(self) -> list[int]:
        """The views that meet others; where none does, all."""
        return sorted({view for view, _ in self.pairings}) or [*range(len(self.queries))]


class Multiview(Learner, ABC):
    """A loss over the views of a batch, and what it remembers.

    Entries are built as ``Entry(dim, meets, pairs, **options)``: the length of the vectors, which views of a pair meet,
    the number of pairs in the data set, and keyword-only options. `forward` changes nothing.
    """

    masks: ClassVar[bool] = False  # True: pairs may lack views
    needs_labels: bool = False  # True: the pairs must have labels
    takes_one_view: ClassVar[bool] = False  # True: no two views need meet
    reads_every_key: bool = False  # True: keys of all views; False: only of those that an anchor meets

    @abstractmethod
    def forward(self, views: Views) -> Outcome:
        """The loss on one batch, in float32 or better; a mean over anchors."""

    def cautions(self) -> list[str]:
        """What a user should know of these options over the views that meet; empty for most."""
        return []


def answering(pairings: Pairings) -> list[int]:
    """The views that anchors meet, by their number."""
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
    """The keys of all views and, where they are gathered, of all ranks, with what is known of them; view by view."""
    keys, index, label, present = views.keys, views.index, views.label, views.present
    if gathers:
        if present is not None:
            present = gather(present.T.long()).T.bool()
        keys = gather_with_gradient(keys.transpose(0, 1).flatten(1)).unflatten(1, (len(keys), -1)).transpose(0, 1)
        index, label = gather(index), gather(label)
    there = None if present is None else present.flatten()
    return keys.flatten(0, 1), PairIds(index.repeat(len(keys)), label.repeat(len(keys)), there)
