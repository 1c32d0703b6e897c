"""The other pairs of the batch, of this rank or of all."""

from jaxtyping import Float
from torch import Tensor

from crossmodal.contrast._pool import Choice, Known, Pool, Relation
from crossmodal.contrast.gather import gather, gather_with_gradient
from crossmodal.contrast.scores import Candidates


class InBatch(Pool):
    """Remembers nothing; gradient flows to all rows, over ranks too where they are gathered."""

    def __init__(self, relation: Relation, *, gathered: bool) -> None:
        super().__init__({})
        self.relation, self.gathered = relation, gathered

    def choose(self, known: Known, seed: int) -> Choice:
        """All rows, each anchor's own beside them as its match."""
        index, key, there = known.index, known.key, known.there
        if self.gathered:
            index, key = gather(index), gather(key)
            there = None if there is None else gather(there.long()).bool()
        valid = None if there is None else there[None]
        return Choice(self.relation.masks(known, index=index[None], key=key[None], valid=valid))

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The live rows."""
        return Candidates(gather_with_gradient(live) if self.gathered else live, choice.relate, live)

    def remember(self, rows: Float[Tensor, "batch dim"], known: Known) -> None:
        """Nothing."""
