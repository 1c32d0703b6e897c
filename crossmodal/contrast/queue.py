"""A queue: the embeddings of the last steps, of a size independent of the data set."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.contrast.pool import Choice, PairIds, Pool, Relation, gather_ids, join_ids
from crossmodal.contrast.scores import Candidates
from crossmodal.distributed import gather_with_gradient


class Queue(Pool):
    """The last `count` embeddings of all ranks; a place is no negative before it is first filled.

    With `project` the queue holds inputs of a trained head and projects them at every step, with gradient, beside the
    current batch of all ranks: no projected row is stale.

    Source: Momentum Contrast, He et al. 2020, https://arxiv.org/abs/1911.05722, section 3.2; the published code starts
    with random rows that count.
    """

    def __init__(
        self,
        relation: Relation,
        count: int,
        dim: int,
        *,
        dtype: torch.dtype,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        remembered = {
            "rows": torch.zeros(count, dim, dtype=dtype),
            "index": torch.full((count,), -1),
            "key": torch.full((count,), -1),
            "place": torch.zeros((), dtype=torch.int64),  # next place to fill
        }
        if project is not None and dtype.itemsize < 4:  # unnormalised rows may exceed the range of half precision
            remembered["size"] = torch.zeros(count, 1)
        super().__init__(remembered)
        self.relation, self.project = relation, project

    def count(self, batch: int, ranks: int) -> int:
        """The places of the queue; with `project`, the other pairs of the batch too."""
        return len(self.remembered["rows"]) + (batch * ranks - 1 if self.project else 0)

    def choose(self, known: PairIds, seed: int) -> Choice:
        """All rows; each anchor's positive is its pair in the current batch."""
        index = self.remembered["index"]
        rows = PairIds(index, self.remembered["key"], index >= 0)
        return Choice(self.relation.masks_of(known, join_ids(rows, gather_ids(known)) if self.project else rows))

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The queue's rows."""
        rows = self.remembered["rows"].to(live.dtype)
        if "size" in self.remembered:
            rows = rows * self.remembered["size"]
        if self.project is not None:
            rows = torch.cat([self.project(rows), gather_with_gradient(live)])
        return Candidates(rows, choice.relate, live)

    @torch.no_grad()
    def remember(self, rows: Float[Tensor, "batch dim"], known: PairIds) -> None:
        """Overwrites the oldest places; if there are more rows than places, the last rows are kept."""
        place, count = self.remembered["place"], len(self.remembered["rows"])
        first = max(0, len(rows) - count)
        places = (place + torch.arange(first, len(rows), device=rows.device)) % count
        entries = {"rows": rows, "index": known.index, "key": known.key}
        if "size" in self.remembered:
            size = rows.abs().amax(1, keepdim=True)
            entries |= {"rows": rows / size.clamp(min=torch.finfo(size.dtype).tiny), "size": size}
        for name, item in entries.items():
            self.remembered[name][places] = item[first:].to(self.remembered[name].dtype)
        place.add_(len(rows)).remainder_(count)
