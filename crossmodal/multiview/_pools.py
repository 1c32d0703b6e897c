"""A pool of keys for each view, of which all learn together."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from crossmodal.contrast._pool import Known, Pool
from crossmodal.multiview._base import Views


class ViewPools(nn.Module):
    """The pools by the number of their view; none of them remembers anything, or all do."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)

    def __len__(self) -> int:
        return len(self.pools)

    def __getitem__(self, view: int) -> Pool:
        return cast(Pool, self.pools[view])

    def memo(self, views: Views) -> tuple[Tensor, ...]:
        """What `remember` wants of a batch; nothing where nothing is remembered."""
        if not self.memory():
            return ()
        memo = (views.index, views.label, views.keys.detach().transpose(0, 1))
        return memo if views.present is None else (*memo, views.present.T)

    def remember(self, *memo: Tensor) -> None:
        """Every pool learns the keys of its view."""
        index, label, rows, *present = memo
        for view in range(len(self)):
            there = present[0][:, view] if present else slice(None)
            self[view].remember(rows[there, view], Known(index[there], label[there]))

    def memory(self) -> dict[str, Tensor]:
        """What all remember; the live tensors."""
        return {f"view{view}_{name}": item for view in range(len(self)) for name, item in self[view].remembered.items()}
