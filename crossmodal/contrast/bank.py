"""A memory bank: one stored embedding per pair of the data set."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Choice, PairIds, Pool, Relation, gather_ids, join_ids
from crossmodal.contrast.scores import Candidates
from crossmodal.contrast.share import Share
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

    With `place: sharded` every rank holds a range of the pairs. The rows of a shared draw are then a sum over ranks,
    those of a draw for each pair are exchanged, and a row is updated where it lies.

    Raises:
        ValueError: a sharded bank would take all rows, or is to find related pairs.
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
        dtype, share = getattr(torch, options.dtype), Share.of(pairs) if options.place == "sharded" else None
        size = pairs if share is None else share.size + 1
        remembered = {"rows": torch.zeros(size, dim, dtype=dtype)}
        if eager:
            _draw_rows(remembered["rows"], share or Share(pairs, 0, 1), name)
        else:
            remembered["written"] = torch.zeros(size, dtype=torch.bool)
            remembered["due"] = torch.tensor(-(-pairs // CHECKS))  # rows until the next check; 0: all are written
        if relation.keyed:
            remembered["key"] = torch.full((size,), -1)
        super().__init__(remembered, in_host_memory=("due", *(("rows",) if options.place == "host" else ())))
        self.relation, self.options, self.match, self.eager = relation, options, match, eager
        self.pairs, self.share = pairs, share
        self.chooses = options.draw if options.count < pairs - 1 or eager else "all"
        if share is not None and (self.chooses == "all" or match == "related"):
            raise ValueError(f"a sharded bank needs a count below {pairs - 1}, one less than the pairs, and no "
                             f"positive: related, got {options.count} and {match}")  # fmt: skip

    @property
    def rows(self) -> Float[Tensor, "pairs dim"]:
        """The stored embedding of every pair; of a sharded bank, this rank's table."""
        return self.remembered["rows"]

    @property
    def is_filling(self) -> bool:
        """True if rows may be missing; known without waiting for a GPU."""
        return not self.eager and self.remembered["due"].item() > 0

    def count(self, batch: int, ranks: int) -> int:
        """The drawn rows, or all other pairs."""
        return self.pairs - 1 if self.chooses == "all" else self.options.count

    def choose(self, known: PairIds, seed: int) -> Choice:
        """The drawn rows, and the row of each anchor's positive."""
        match, pairs, count = self._match(known, seed), self.pairs, self.options.count
        if self.chooses == "sample" and not self.is_filling:
            picked = draw_negatives(seed, known.index, pairs, count, own=self.eager)
            return Choice(self.relation.masks(known, key=self._fact("key", picked)), match, picked=picked)
        every = torch.arange(pairs if self.chooses == "all" else count, device=known.index.device)
        shared = None if self.chooses == "all" else uniform_bits(seed, every) % pairs
        if self.is_filling:
            return self._choose_beside_batch(known, match, every if shared is None else shared, shared)
        if shared is None:
            return Choice(self.relation.masks(known, index=every[None], key=self._fact("key", every[None])), match)
        masks = self.relation.masks(known, key=self._fact("key", shared[None]), valid=_absent(shared, known)[None])
        return Choice(masks, match, shared)

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The chosen rows, and the current batch where rows are missing; half precision stays if all are chosen."""
        match, picked = live if choice.match is None else self._own("rows", choice.match).to(live), choice.picked
        if choice.shared is not None:
            rows = self._same("rows", choice.shared).to(live)
        elif picked is not None and self.share is not None:
            drawn, picked = picked.unique(return_inverse=True)
            rows = self.share.take_any(self.rows, drawn).to(live)
        else:
            rows = self.rows if self.rows.dtype.itemsize < 4 else self.rows.to(live)
        if choice.fresh is None:
            return Candidates(rows, choice.relate, match, picked)
        rows = torch.cat([rows, gather_with_gradient(live)])
        return Candidates(rows, choice.relate, torch.where(choice.fresh[:, None], live, match))

    @torch.no_grad()
    def remember(self, rows: Float[Tensor, "batch dim"], known: PairIds) -> None:
        """Row <- normalise(momentum * row + (1 - momentum) * new) for the given pairs; other rows are not touched.

        If an index occurs several times, its last occurrence counts.
        """
        index, last = known.index, known.last  # CUDA writes repeats in any order, so all must write the same value
        if self.share is not None:
            index = self.share.places(index)
        place = index.to(self.rows.device)
        mixed = torch.lerp(rows[last], self.rows.index_select(0, place).to(rows), self.options.momentum)
        self.rows[place] = F.normalize(mixed, dim=1).to(self.rows)
        if not self.eager:
            self.remembered["written"].index_fill_(0, index, True)  # [index] = True would wait for a GPU
            self._look(len(index))
        if "key" in self.remembered:
            self.remembered["key"][index] = known.key[last]

    def _look(self, rows: int) -> None:
        """Checks if all rows are written; waits for the GPU a few times per pass, and never again once they are."""
        due, written = self.remembered["due"], self.remembered["written"]
        if self.is_filling and due.sub_(rows) <= 0:
            is_full = written.all() if self.share is None else self.share.is_full(written)
            due.fill_(0 if is_full else -(-self.pairs // CHECKS))

    def _choose_beside_batch(
        self, known: PairIds, match: Tensor | None, column: Tensor, shared: Tensor | None
    ) -> Choice:
        """Anchors without a row get the batch of all ranks as candidates, the others the written rows."""
        key = self._same("key", column) if self.relation.keyed else torch.full_like(column, -1)
        every = join_ids(PairIds(column, key, self._same("written", column)), gather_ids(known))
        fresh = ~self._own("written", known.index)
        of_batch = torch.arange(len(every.index), device=column.device) >= len(column)
        return Choice(self.relation.masks_of(known, every, (fresh, of_batch)), match, shared, fresh=fresh)

    def _match(self, known: PairIds, seed: int) -> Int[Tensor, " batch"] | None:
        """The row of each anchor's positive; None: the positive is the current embedding."""
        if self.match == "related":
            return _draw_related(self.remembered["key"], known, seed)
        return known.index if self.match == "bank" else None

    def _same(self, name: str, index: Int[Tensor, " some"]) -> Tensor:
        """The facts of pairs that are the same on every rank."""
        table = self.remembered[name]
        if self.share is not None:
            return self.share.take_same(table, index)
        return table.index_select(0, index.to(table.device))

    def _own(self, name: str, index: Int[Tensor, " some"]) -> Tensor:
        """The facts of pairs of this rank."""
        return self._same(name, index) if self.share is None else self.share.take_own(self.remembered[name], index)

    def _fact(self, name: str, index: Int[Tensor, "#anchors drawn"]) -> Tensor | None:
        """The facts of drawn pairs: one row of them if they are the same on every rank."""
        if name not in self.remembered or self.share is None:
            return self.remembered[name][index] if name in self.remembered else None
        if len(index) == 1:
            return self._same(name, index[0])[None]
        drawn, place = index.unique(return_inverse=True)
        return self.share.take_any(self.remembered[name], drawn)[place]


def _absent(drawn: Int[Tensor, " drawn"], known: PairIds) -> Bool[Tensor, " drawn"]:
    """Which drawn pairs are not in the batch of any rank."""
    present = gather(known.index).sort().values
    place = torch.searchsorted(present, drawn).clamp(max=len(present) - 1)
    return present[place] != drawn


def _draw_rows(rows: Float[Tensor, "own dim"], share: Share, name: str) -> None:
    """Noise in [-bound, bound], in pieces: all of it in float32 would be twice a half-precision bank."""
    source, bound, piece = generator("bank", name), (3 / rows.shape[1]) ** 0.5, 1 << 16
    for start in range(0, share.pairs, piece):  # every rank draws the rows of all
        drawn = torch.empty(min(piece, share.pairs - start), rows.shape[1]).uniform_(-bound, bound, generator=source)
        first, last = max(start, share.range.start), min(start + len(drawn), share.range.stop)
        if first < last:
            rows[first - share.range.start : last - share.range.start] = drawn[first - start : last - start].to(rows)


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
