"""A memory bank: one remembered embedding per pair of the data set."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.contrast._pool import Choice, Known, Pool, Relation
from crossmodal.contrast.gather import gather
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.scores import Candidates
from modalities._random import generator, uniform_bits


class Bank(Pool):
    """One row per pair, moved by momentum towards what was last seen of it.

    Rows begin uniform in +-sqrt(3 / dim), as published: of length about 1, the same on every rank. Until it is first
    written, a row is a pair's match but no negative, and no other takes its place: see `filled`. With `eager`, as
    published, it is one at once, and what is drawn for a pair may be the pair itself.

    A shared draw leaves out the pairs of the joint batch. A draw of as many rows as there are pairs takes all of them.
    """

    def __init__(
        self,
        relation: Relation,
        pairs: int,
        dim: int,
        options: Negatives,
        *,
        name: str,  # address of the random start
        match: Literal["bank", "live", "related"] = "bank",  # related: the row of a random pair with the anchor's key
        eager: bool = False,
    ) -> None:
        remembered = {"rows": _draw_rows(pairs, dim, name, getattr(torch, options.dtype))}
        if not eager:
            remembered["written"] = torch.zeros(pairs, dtype=torch.bool)
        if relation.keyed or match == "related":
            remembered["key"] = torch.full((pairs,), -1)
        super().__init__(remembered, in_host_memory=("rows",) if options.place == "host" else ())
        self.relation, self.options, self.match, self.eager = relation, options, match, eager
        self.chooses = options.draw if options.count < pairs - 1 or eager else "all"

    @property
    def rows(self) -> Float[Tensor, "pairs dim"]:
        """What is remembered of every pair."""
        return self.remembered["rows"]

    @property
    def filled(self) -> Float[Tensor, ""] | None:
        """The share of rows that have been written; None where all count from the start."""
        return None if self.eager else self.remembered["written"].mean(dtype=torch.float32)

    def choose(self, known: Known, seed: int) -> Choice:
        """The drawn rows, and each anchor's match."""
        match, pairs, count = self._match(known, seed), len(self.rows), self.options.count
        if self.chooses == "sample":
            picked = draw_negatives(seed, known.index, pairs, count, own=self.eager)
            masks = self.relation.masks(known, key=self._fact("key", picked), valid=self._fact("written", picked))
            return Choice(masks, match, picked=picked)
        if self.chooses == "all":
            index, key = torch.arange(pairs, device=known.index.device)[None], self._fact("key", None)
            return Choice(self.relation.masks(known, index=index, key=key, valid=self._fact("written", None)), match)
        drawn = uniform_bits(seed, torch.arange(count, device=known.index.device)) % pairs
        written = self.remembered.get("written")
        apart = known.index.new_ones(pairs, dtype=torch.bool) if written is None else written.clone()
        apart.index_fill_(0, gather(known.index), False)
        key, valid = self._fact("key", drawn[None]), apart[drawn[None]]
        return Choice(self.relation.masks(known, key=key, valid=valid), match, drawn)

    def candidates(self, live: Float[Tensor, "batch dim"], choice: Choice) -> Candidates:
        """The chosen rows, in the precision of `live`."""
        rows = self.rows.to(live.dtype) if choice.shared is None else self._take(choice.shared, live)
        match = live if choice.match is None else self._take(choice.match, live)
        return Candidates(rows, choice.relate, match, choice.picked)

    @torch.no_grad()
    def remember(self, rows: Float[Tensor, "batch dim"], known: Known) -> None:
        """Row <- normalise(momentum * row + (1 - momentum) * new) for the given pairs; others keep their bits.

        Of an index that comes several times the last occurrence counts.
        """
        index, last = known.index, known.last  # CUDA writes repeats in any order, so all write what the last one has
        mixed = torch.lerp(rows[last], self._take(index, rows), self.options.momentum)
        self.rows[index.to(self.rows.device)] = F.normalize(mixed, dim=1).to(self.rows)
        if not self.eager:
            self.remembered["written"].index_fill_(0, index, True)  # [index] = True would wait for a GPU
        if "key" in self.remembered:
            self.remembered["key"][index] = known.key[last]

    def _match(self, known: Known, seed: int) -> Int[Tensor, " batch"] | None:
        """Where what stands for each anchor's pair is remembered."""
        if self.match == "related":
            return _draw_related(self.remembered["key"], known, seed)
        return known.index if self.match == "bank" else None

    def _take(self, index: Int[Tensor, " some"], like: Tensor) -> Tensor:
        return self.rows.index_select(0, index.to(self.rows.device)).to(like)

    def _fact(self, name: str, index: Int[Tensor, "*some"] | None) -> Tensor | None:
        """What is known of the rows of `index`, or of all in one row."""
        return self.remembered[name][index] if name in self.remembered else None


def _draw_rows(pairs: int, dim: int, name: str, dtype: torch.dtype) -> Float[Tensor, "pairs dim"]:
    """Random directions; a stretch at a time, for all in float32 would take twice a half-precision bank."""
    rows, source, bound = torch.empty(pairs, dim, dtype=dtype), generator("bank", name), (3 / dim) ** 0.5
    for part in rows.split(1 << 16):
        part.copy_(torch.empty(part.shape).uniform_(-bound, bound, generator=source))
    return rows


def draw_negatives(
    seed: int, index: Int[Tensor, " batch"], pairs: int, count: int, *, own: bool = False
) -> Int[Tensor, "batch count"]:
    """Indices uniform over all pairs, with replacement, without each row's `own`; by (seed, index) alone."""
    column = torch.arange(count, device=index.device)
    bits = uniform_bits(seed, index[:, None], column[None, :])
    if own:
        return bits % pairs
    drawn = bits % (pairs - 1)
    return drawn + (drawn >= index[:, None])


def _draw_related(key: Int[Tensor, " pairs"], known: Known, seed: int) -> Int[Tensor, " batch"]:
    """A pair with each anchor's key, uniform over those remembered; the anchor's own where it has no key."""
    column = torch.arange(len(key), device=key.device)
    chosen = []
    for own, index in zip(known.key, known.index, strict=True):  # a row of all pairs at a time
        lots = uniform_bits(seed, index, column).masked_fill((key != own) | (own < 0), -1)
        most, best = lots.max(dim=0)  # to index by `best` would wait for a GPU
        chosen.append(torch.where(most >= 0, best, index))
    return torch.stack(chosen)
