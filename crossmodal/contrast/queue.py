"""A queue: the embeddings of the last steps, however large the data set is."""

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.contrast._pool import Choice, Known, Pool, Relation
from crossmodal.contrast.scores import Candidates


class Queue(Pool):
    """The last `count` embeddings of all ranks; a place is no negative before it is first filled.

    Source: Momentum Contrast, He et al. 2020, https://arxiv.org/abs/1911.05722, section 3.2; the published code starts
    with random rows that count.
    """

    def __init__(self, relation: Relation, count: int, dim: int, *, dtype: torch.dtype) -> None:
        super().__init__(
            {
                "rows": torch.zeros(count, dim, dtype=dtype),
                "index": torch.full((count,), -1),
                "key": torch.full((count,), -1),
                "place": torch.zeros((), dtype=torch.int64),  # that is filled next
            }
        )
        self.relation = relation

    def choose(self, known: Known, seed: int) -> Choice:
        """All rows; each anchor's match is live."""
        index, key = self.remembered["index"][None], self.remembered["key"][None]
        return Choice(self.relation.masks(known, index=index, key=key, valid=index >= 0))

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The queue's rows."""
        return Candidates(self.remembered["rows"].to(live.dtype), choice.relate, live)

    @torch.no_grad()
    def remember(self, rows: Float[Tensor, "batch dim"], known: Known) -> None:
        """Fills the oldest places; of more rows than places the last ones stay."""
        place, count = self.remembered["place"], len(self.remembered["rows"])
        first = max(0, len(rows) - count)
        places = (place + torch.arange(first, len(rows), device=rows.device)) % count
        for name, came in (("rows", rows), ("index", known.index), ("key", known.key)):
            self.remembered[name][places] = came[first:].to(self.remembered[name].dtype)
        place.add_(len(rows)).remainder_(count)
