"""Negatives from the batch, of this rank or of all ranks."""

from jaxtyping import Float
from torch import Tensor

from crossmodal.contrast.pool import Choice, PairIds, Pool, Relation, gather_ids
from crossmodal.contrast.scores import Candidates
from crossmodal.distributed import gather_with_gradient


class InBatch(Pool):
    """A pool without state; gradient flows to all rows, over ranks too if they are gathered."""

    def __init__(self, relation: Relation, *, gathered: bool) -> None:
        super().__init__({})
        self.relation, self.gathered = relation, gathered

    def count(self, batch: int, ranks: int) -> int:
        """The other pairs of the batch."""
        return (batch * ranks if self.gathered else batch) - 1

    def choose(self, known: PairIds, seed: int) -> Choice:
        """All rows, and each anchor's own pair as its positive."""
        return Choice(self.relation.masks_of(known, gather_ids(known) if self.gathered else known))

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The rows of the batch."""
        return Candidates(gather_with_gradient(live) if self.gathered else live, choice.relate, live)

    def remember(self, rows: Float[Tensor, "batch dim"], known: PairIds) -> None:
        """Does nothing."""
