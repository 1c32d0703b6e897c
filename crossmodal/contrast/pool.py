"""The interface of a pool of embeddings, and the masks that relate its rows to anchors."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossmodal.contrast.scores import Candidates, Mask, Relate
from crossmodal.contrast.share import Share
from crossmodal.distributed import gather


@dataclass(frozen=True)
class PairIds:
    """Identifies the pairs of some embeddings."""

    index: Int[Tensor, " rows"]  # of their pairs in the data set, -1 without a pair
    key: Int[Tensor, " rows"]  # their label or group, -1 without one
    there: Bool[Tensor, " rows"] | None = None  # which rows exist; None: all. The others are no candidates

    @cached_property
    def last(self) -> Int[Tensor, " rows"]:
        """The position of the last row of each row's pair."""
        ordered, order = torch.sort(self.index, stable=True)
        return order[torch.searchsorted(ordered, self.index, right=True) - 1]


def gather_ids(known: PairIds) -> PairIds:
    """The ids of all ranks, in rank order."""
    there = None if known.there is None else gather(known.there.long()).bool()
    return PairIds(gather(known.index), gather(known.key), there)


def join_ids(*parts: PairIds) -> PairIds:
    """Concatenates ids."""
    there = [
        part.index.new_ones(len(part.index), dtype=torch.bool) if part.there is None else part.there for part in parts
    ]
    return PairIds(torch.cat([part.index for part in parts]), torch.cat([part.key for part in parts]), torch.cat(there))


Facts = Int[Tensor, "#anchors candidates"]  # one row if they are equal for all anchors


@dataclass(frozen=True)
class Relation:
    """Decides which candidates are an anchor's positives besides its match, and which are valid negatives.

    A row of the anchor's own pair is neither, because the match (the anchor's own positive) represents it. Rows with
    the anchor's key are positives with `together`, and otherwise neither.
    """

    keyed: bool = False  # True: keys are used
    together: bool = False

    def masks_of(self, anchors: PairIds, rows: PairIds, halves: tuple[Tensor, Tensor] | None = None) -> Relate:
        """`masks` for rows that are equal for all anchors."""
        valid = None if rows.there is None else rows.there[None]
        return self.masks(anchors, index=rows.index[None], key=rows.key[None], valid=valid, halves=halves)

    def masks(
        self,
        anchors: PairIds,
        *,
        index: Facts | None = None,  # None: no row is of an anchor's own pair
        key: Facts | None = None,
        valid: Bool[Tensor, "#anchors candidates"] | None = None,  # None: all
        halves: tuple[Bool[Tensor, " anchors"], Bool[Tensor, " candidates"]] | None = None,  # an anchor sees its half
    ) -> Relate:
        """A function from a piece of the anchors to their `positive` and `valid` masks, the match's column first."""
        if index is None and not self.keyed:
            alike = None if valid is None else _with_match(valid, matched=False)
            return lambda piece: (None, _cut(alike, piece))

        def relate(piece: slice | Tensor) -> tuple[Mask | None, Mask | None]:
            counts = _cut(valid, piece)
            if index is not None:
                apart = anchors.index[piece, None] != _cut(index, piece)
                counts = apart if counts is None else apart & counts
            if halves is not None:
                same_half = halves[0][piece, None] == halves[1][None]
                counts = same_half if counts is None else same_half & counts
            if not self.keyed:
                return None, None if counts is None else _with_match(counts, matched=False)
            assert key is not None
            own = anchors.key[piece, None]
            equal = (own == _cut(key, piece)) & (own >= 0)
            counts = torch.ones_like(equal) if counts is None else counts
            if self.together:
                return _with_match(equal & counts, matched=True), _with_match(counts.expand_as(equal), matched=False)
            return None, _with_match(counts & ~equal, matched=False)

        return relate


def _cut(facts: Tensor | None, piece: slice | Tensor) -> Any:
    return facts if facts is None or len(facts) == 1 else facts[piece]


def _with_match(mask: Bool[Tensor, "anchors rows"], *, matched: bool) -> Bool[Tensor, "anchors 1+rows"]:
    return F.pad(mask, (1, 0), value=matched)


@dataclass(frozen=True)
class Choice:
    """The rows chosen as candidates of a batch's anchors, and their masks; equal for pools of the same pairs."""

    relate: Relate
    match: Int[Tensor, " batch"] | None = None  # row of each anchor's positive; None: its current embedding
    shared: Int[Tensor, " some"] | None = None  # rows that are candidates of all anchors; None: all rows
    picked: Int[Tensor, "batch picked"] | None = None  # rows that are candidates of each anchor; None: all of these
    fresh: Bool[Tensor, " batch"] | None = None  # anchors with the current batch as candidates; None: none


class Pool(nn.Module, ABC):
    """The embeddings of one side, with which the other side's anchors are contrasted.

    The state is not in buffers: DDP would overwrite every rank's with the first rank's at each forward. It follows the
    module's device, and the owner of the pool saves it in checkpoints.
    """

    share: Share | None = None  # of the pairs, whose tables this rank holds; None: those of all pairs

    def __init__(self, remembered: dict[str, Tensor], *, in_host_memory: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.remembered, self.in_host_memory = remembered, in_host_memory

    def memory(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint, as live tensors; tables that ranks share as one of all ranks."""
        if self.share is None:
            return dict(self.remembered)
        return {name: self.share.whole(item) if item.ndim else item for name, item in self.remembered.items()}

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Any:
        for name, tensor in self.remembered.items():
            if name not in self.in_host_memory:
                half = tensor.dtype in (torch.float16, torch.bfloat16)
                self.remembered[name] = fn(tensor).to(tensor.dtype) if half else fn(tensor)
        return super()._apply(fn, recurse)

    @property
    def is_filling(self) -> bool:
        """True if rows may still be missing."""
        return False

    @abstractmethod
    def count(self, batch: int, ranks: int) -> int:
        """The number of negatives of an anchor once no row is missing, before labels or groups set some apart.

        Args:
            batch: pairs of a part of a step, on one rank.
            ranks: processes of the run.
        """

    @abstractmethod
    def choose(self, known: PairIds, seed: int) -> Choice:
        """The rows that are candidates of the batch's anchors."""

    @abstractmethod
    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The candidates of the other side's anchors, matches included; `live` is this side's current batch.

        Gradient flows to live embeddings and not to stored ones.
        """

    @abstractmethod
    def remember(self, rows: Float[Tensor, "batch dim"], known: PairIds) -> None:
        """Stores the embeddings of a step, gathered from all ranks in rank order."""
