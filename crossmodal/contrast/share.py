"""The part of a table of all pairs that a rank holds, and the exchange of its rows."""

import math
from dataclasses import dataclass

import torch
import torch.distributed
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from crossmodal.distributed import gather, ranks


@dataclass(frozen=True)
class Share:
    """A contiguous range of the pairs. Tables have one more row, the last, for what belongs to other ranks.

    So every rank's table has the same size, and no rank waits for a GPU to know how many rows are its own.
    """

    pairs: int  # of all ranks
    rank: int
    ranks: int

    @classmethod
    def of(cls, pairs: int) -> "Share":
        """The share of this process."""
        return cls(pairs, *ranks())

    @property
    def size(self) -> int:
        """The most pairs of a rank; the last ranks may have fewer."""
        return math.ceil(self.pairs / self.ranks)

    @property
    def range(self) -> range:
        """The pairs of this rank."""
        start = min(self.rank * self.size, self.pairs)
        return range(start, min(start + self.size, self.pairs))

    def places(self, index: Int[Tensor, "*some"]) -> Int[Tensor, "*some"]:
        """The rows of pairs in this rank's table."""
        return torch.where(self._is_own(index), index - self.range.start, self.size)

    def take_same(
        self, table: Shaped[Tensor, "own *dims"], index: Int[Tensor, " some"]
    ) -> Shaped[Tensor, "some *dims"]:
        """The rows of pairs that are the same on every rank; each adds what it holds to zeros."""
        taken = table.index_select(0, self.places(index))
        if self.ranks == 1:
            return taken
        whole = taken.to(torch.uint8) if taken.dtype == torch.bool else taken
        whole = whole.masked_fill(~self._is_own(index).view(-1, *[1] * (taken.ndim - 1)), 0)
        torch.distributed.all_reduce(whole)
        return whole.to(taken.dtype)

    def take_own(self, table: Shaped[Tensor, "own *dims"], index: Int[Tensor, " some"]) -> Shaped[Tensor, "some *dims"]:
        """The rows of pairs of which every rank has as many, but others."""
        begin = self.rank * len(index)
        return self.take_same(table, gather(index))[begin : begin + len(index)]

    def take_any(self, table: Shaped[Tensor, "own *dims"], index: Int[Tensor, " some"]) -> Shaped[Tensor, "some *dims"]:
        """The rows of ascending pairs, of which every rank may have another number; waits for a GPU."""
        if self.ranks == 1:
            return table.index_select(0, index)
        bounds = torch.arange(self.ranks + 1, device=index.device) * self.size
        asked = torch.searchsorted(index, bounds).diff()
        given = torch.empty_like(asked)
        torch.distributed.all_to_all_single(given, asked)
        asked_of, asked_by = asked.tolist(), given.tolist()
        wanted = index.new_empty(sum(asked_by))
        torch.distributed.all_to_all_single(wanted, index.contiguous(), asked_by, asked_of)
        rows = table.new_empty(len(index), *table.shape[1:])
        torch.distributed.all_to_all_single(rows, table.index_select(0, self.places(wanted)), asked_of, asked_by)
        return rows

    def is_full(self, table: Bool[Tensor, " own"]) -> bool:
        """True if the table of all ranks is true everywhere; waits for a GPU."""
        return bool(gather(table[: len(self.range)].all()[None]).all())

    def whole(self, table: Shaped[Tensor, "own *dims"]) -> Tensor:
        """The table of all ranks without the additional rows, for checkpoints; it shares this rank's memory."""
        own = table[: len(self.range)]
        if self.ranks == 1:
            return own
        from torch.distributed.tensor import DTensor, Shard

        mesh = torch.distributed.init_device_mesh(table.device.type, (self.ranks,))
        shape = torch.Size([self.pairs, *table.shape[1:]])
        return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=shape, stride=table.stride())

    def _is_own(self, index: Int[Tensor, "*some"]) -> Bool[Tensor, "*some"]:
        return (index >= self.range.start) & (index < self.range.stop)
