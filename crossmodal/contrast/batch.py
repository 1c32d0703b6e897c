"""The other pairs of the batch, of this rank or of all."""

from jaxtyping import Float
from torch import Tensor

from crossmodal.contrast._pool import Known, Pool, Relation
from crossmodal.contrast.gather import gather, gather_with_gradient
from crossmodal.contrast.scores import Candidates


class InBatch(Pool):
    """Remembers nothing; gradient flows to all rows, over ranks too where they are gathered."""

    def __init__(self, relation: Relation, *, gathered: bool) -> None:
        super().__init__({})
        self.relation, self.gathered = relation, gathered

    def candidates(self, live: Float[Tensor, "batch dim"], known: Known, seed: int) -> Candidates:
        """The live rows, each anchor's own beside them as its match."""
        rows, index, key, there = live, known.index, known.key, known.there
        if self.gathered:
            rows, index, key = gather_with_gradient(live), gather(index), gather(key)
            there = None if there is None else gather(there.long()).bool()
        valid = None if there is None else there[None]
        return Candidates(rows, self.relation.masks(known, index=index[None], key=key[None], valid=valid), live)

    def remember(self, rows: Float[Tensor, "batch dim"], known: Known) -> None:
        """Nothing."""
