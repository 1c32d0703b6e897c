"""A pool of keys for each view."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from crossmodal.contrast.pool import PairIds, Pool
from crossmodal.multiview import Views


def places(numbers: Sequence[int], device: torch.device) -> Int[Tensor, " numbers"]:
    """The numbers as a tensor, filled where it is used: a GPU waits for all queued work before it copies a list."""
    return torch.stack([torch.full((), number, device=device) for number in numbers])


class ViewPools(nn.Module):
    """The pools by the number of their view; either all of them keep state or none does."""

    def __init__(self, pools: Mapping[int, Pool]) -> None:
        super().__init__()
        self.pools = nn.ModuleDict({str(view): pool for view, pool in pools.items()})
        self.views = [*pools]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, view: int) -> Pool:
        return cast(Pool, self.pools[str(view)])

    def memo(self, views: Views) -> tuple[Tensor, ...]:
        """The rows of a batch for `remember`; empty if the pools keep no state."""
        if not self.memory():
            return ()
        own = places(self.views, views.index.device)
        memo = (views.index, views.label, views.keys[own].detach().transpose(0, 1))
        return memo if views.present is None else (*memo, views.present[own].T)

    def remember(self, *memo: Tensor) -> None:
        """Stores each view's keys in its pool."""
        index, label, rows, *present = memo
        for column, view in enumerate(self.views):
            valid = present[0][:, column] if present else slice(None)
            self[view].remember(rows[valid, column], PairIds(index[valid], label[valid]))

    def memory(self) -> dict[str, Tensor]:
        """The pools' live tensors."""
        return {f"view{view}_{name}": item for view in self.views for name, item in self[view].memory().items()}
