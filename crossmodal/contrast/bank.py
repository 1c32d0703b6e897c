"""A memory bank: one stored embedding per pair of the data set."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Choice, PairIds, Pool, Relation, gather_ids, join_ids
from crossmodal.contrast.scores import Candidates
from crossmodal.distributed import gather, gather_with_gradient
from modalities.common.random import generator, uniform_bits

CHECKS = 8  # per pass, how often to check that all rows are written


class Bank(Pool):
    """One row per pair, a moving average of the pair's embeddings.

    Until its own row is first written, an anchor is contrasted with the current batch of all ranks instead of the bank,
    as in `InBatch`. In the first pass that is every anchor. Draws for each pair are shared until all rows are written,
    so forever if one pair is never loaded. With `eager`, as published, rows begin as noise, uniform in +-sqrt(3 / dim),
    that counts at once, and a pair may be drawn as its own negative.

    A shared draw leaves out the pairs of the joint batch. A draw of as many rows as there are pairs takes all of them.
    """

    def __init__(
        self,
        relation: Relation,
        pairs: int,
        dim: int,
        options: Negatives,
        *,
        name: str,  # seeds the noise
        match: Literal["bank", "live", "related"] = "bank",  # related: the row of a random pair with the anchor's key
        eager: bool = False,
    ) -> None:
        dtype = getattr(torch, options.dtype)
        remembered = {"rows": _draw_rows(pairs, dim, name, dtype) if eager else torch.zeros(pairs, dim, dtype=dtype)}
        if not eager:
            remembered["written"] = torch.zeros(pairs, dtype=torch.bool)
            remembered["due"] = torch.tensor(-(-pairs // CHECKS))  # rows until the next check; 0: all are written
        if relation.keyed:
            remembered["key"] = torch.full((pairs,), -1)
        super().__init__(remembered, in_host_memory=("due", *(("rows",) if options.place == "host" else ())))
        self.relation, self.options, self.match, self.eager = relation, options, match, eager
        self.chooses = options.draw if options.count < pairs - 1 or eager else "all"

    @property
    def rows(self) -> Float[Tensor, "pairs dim"]:
        """The stored embedding of every pair."""
        return self.remembered["rows"]

    @property
    def is_filling(self) -> bool:
        """True if rows may be missing; known without waiting for a GPU."""
        return not self.eager and self.remembered["due"].item() > 0

    def count(self, batch: int, ranks: int) -> int:
        """The drawn rows, or all other pairs."""
        return len(self.rows) - 1 if self.chooses == "all" else self.options.count

    def choose(self, known: PairIds, seed: int) -> Choice:
        """The drawn rows, and the row of each anchor's positive."""
        match, pairs, count = self._match(known, seed), len(self.rows), self.options.count
        if self.chooses == "sample" and not self.is_filling:
            picked = draw_negatives(seed, known.index, pairs, count, own=self.eager)
            return Choice(self.relation.masks(known, key=self._fact("key", picked)), match, picked=picked)
        every = torch.arange(pairs if self.chooses == "all" else count, device=known.index.device)
        shared = None if self.chooses == "all" else uniform_bits(seed, every) % pairs
        if self.is_filling:
            return self._choose_beside_batch(known, match, every if shared is None else shared, shared)
        if shared is None:
            return Choice(self.relation.masks(known, index=every[None], key=self._fact("key", every[None])), match)
        apart = known.index.new_ones(pairs, dtype=torch.bool).index_fill_(0, gather(known.index), False)
        masks = self.relation.masks(known, key=self._fact("key", shared[None]), valid=apart[shared[None]])
        return Choice(masks, match, shared)

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The chosen rows, and the current batch where rows are missing; half precision stays if all are chosen."""
        if choice.shared is not None:
            rows = self._take(choice.shared, live)
        else:
            rows = self.rows if self.rows.dtype.itemsize < 4 else self.rows.to(live)
        match = live if choice.match is None else self._take(choice.match, live)
        if choice.fresh is None:
            return Candidates(rows, choice.relate, match, choice.picked)
        rows = torch.cat([rows, gather_with_gradient(live)])
        return Candidates(rows, choice.relate, torch.where(choice.fresh[:, None], live, match))

    @torch.no_grad()
    def remember(self, rows: Float[Tensor, "batch dim"], known: PairIds) -> None:
        """Row <- normalise(momentum * row + (1 - momentum) * new) for the given pairs; other rows are not touched.

        If an index occurs several times, its last occurrence counts.
        """
        index, last = known.index, known.last  # CUDA writes repeats in any order, so all must write the same value
        mixed = torch.lerp(rows[last], self._take(index, rows), self.options.momentum)
        self.rows[index.to(self.rows.device)] = F.normalize(mixed, dim=1).to(self.rows)
        if not self.eager:
            self.remembered["written"].index_fill_(0, index, True)  # [index] = True would wait for a GPU
            self._look(len(index))
        if "key" in self.remembered:
            self.remembered["key"][index] = known.key[last]

    def _look(self, rows: int) -> None:
        """Checks if all rows are written; waits for the GPU a few times per pass, and never again once they are."""
        due, written = self.remembered["due"], self.remembered["written"]
        if self.is_filling and due.sub_(rows) <= 0:
            due.fill_(0 if written.all() else -(-len(written) // CHECKS))

    def _choose_beside_batch(
        self, known: PairIds, match: Tensor | None, column: Tensor, shared: Tensor | None
    ) -> Choice:
        """Anchors without a row get the batch of all ranks as candidates, the others the written rows."""
        written = self.remembered["written"]
        key = self.remembered["key"][column] if self.relation.keyed else torch.full_like(column, -1)
        every = join_ids(PairIds(column, key, written[column]), gather_ids(known))
        fresh = ~written[known.index]
        of_batch = torch.arange(len(every.index), device=column.device) >= len(column)
        return Choice(self.relation.masks_of(known, every, (fresh, of_batch)), match, shared, fresh=fresh)

    def _match(self, known: PairIds, seed: int) -> Int[Tensor, " batch"] | None:
        """The row of each anchor's positive; None: the positive is the current embedding."""
        if self.match == "related":
            return _draw_related(self.remembered["key"], known, seed)
        return known.index if self.match == "bank" else None

    def _take(self, index: Int[Tensor, " some"], like: Tensor) -> Tensor:
        return self.rows.index_select(0, index.to(self.rows.device)).to(like)

    def _fact(self, name: str, index: Int[Tensor, "*some"]) -> Tensor | None:
        return self.remembered[name][index] if name in self.remembered else None


def _draw_rows(pairs: int, dim: int, name: str, dtype: torch.dtype) -> Float[Tensor, "pairs dim"]:
    """Noise in [-bound, bound], in pieces: all of it in float32 would be twice a half-precision bank."""
    rows, source, bound = torch.empty(pairs, dim, dtype=dtype), generator("bank", name), (3 / dim) ** 0.5
    for part in rows.split(1 << 16):
        part.copy_(torch.empty(part.shape).uniform_(-bound, bound, generator=source))
    return rows


def draw_negatives(
    seed: int, index: Int[Tensor, " batch"], pairs: int, count: int, *, own: bool = False
) -> Int[Tensor, "batch count"]:
    """Uniform indices of pairs, with replacement, without each row's own unless `own`; fixed by (seed, index)."""
    column = torch.arange(count, device=index.device)
    bits = uniform_bits(seed, index[:, None], column[None, :])
    if own:
        return bits % pairs
    drawn = bits % (pairs - 1)
    return drawn + (drawn >= index[:, None])


def _draw_related(key: Int[Tensor, " pairs"], known: PairIds, seed: int) -> Int[Tensor, " batch"]:
    """A random pair with each anchor's key, among stored ones; the anchor's own pair if it has no key."""
    ordered, order = key.sort()
    first, end = (torch.searchsorted(ordered, known.key, right=right) for right in (False, True))
    drawn = first + uniform_bits(seed, known.index) % (end - first).clamp(min=1)
    return torch.where((known.key < 0) | (end == first), known.index, order[drawn.clamp(max=len(key) - 1)])
