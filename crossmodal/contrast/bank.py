"""A memory bank: one remembered embedding per pair of the data set."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.contrast._pool import Known, Pool, Relation
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
        self.draw = options.draw if options.count < pairs - 1 or eager else "all"

    @property
    def rows(self) -> Float[Tensor, "pairs dim"]:
        """What is remembered of every pair."""
        return self.remembered["rows"]

    @property
    def filled(self) -> Float[Tensor, ""] | None:
        """The share of rows that have been written; None where all count from the start."""
        return None if self.eager else self.remembered["written"].float().mean()

    def candidates(self, live: Float[Tensor, "batch dim"], known: Known, seed: int) -> Candidates:
        """The drawn rows, in the precision of `live`, and each anchor's match."""
        match, pairs, count = self._match(live, known, seed), len(self.rows), self.options.count
        if self.draw == "sample":
            picked = draw_negatives(seed, known.index, pairs, count, own=self.eager)
            masks = self.relation.masks(known, key=self._fact("key", picked), valid=self._fact("written", picked))
            return Candidates(self.rows.to(live.dtype), masks, match, picked)
        if self.draw == "all":
            rows, drawn = self.rows.to(live.dtype), torch.arange(pairs, device=live.device)[None]
            key, written = self._fact("key", drawn), self._fact("written", drawn)
            return Candidates(rows, self.relation.masks(known, index=drawn, key=key, valid=written), match)
        drawn = (uniform_bits(seed, torch.arange(count, device=live.device)) % pairs)[None]
        joint = gather(known.index).sort().values  # looked up in order, which is quicker than torch.isin
        apart = joint[torch.searchsorted(joint, drawn).clamp_(max=len(joint) - 1)] != drawn
        written = self._fact("written", drawn)
        valid = apart if written is None else apart & written
        return Candidates(
            self._take(drawn[0], live), self.relation.masks(known, key=self._fact("key", drawn), valid=valid), match
        )

    @torch.no_grad()
    def remember(self, rows: Float[Tensor, "batch dim"], known: Known) -> None:
        """Row <- normalise(momentum * row + (1 - momentum) * new) for the given pairs; others keep their bits.

        Of an index that comes several times the last occurrence counts.
        """
        index = known.index
        # CUDA writes to a repeated index in any order, so all its occurrences write what the last one has
        ordered, order = torch.sort(index, stable=True)
        last = order[torch.searchsorted(ordered, index, right=True) - 1]
        before, momentum = self._take(index, rows), self.options.momentum
        mixed = F.normalize(momentum * before + (1 - momentum) * rows[last], dim=1)
        self.rows[index.to(self.rows.device)] = mixed.to(self.rows)
        if not self.eager:
            self.remembered["written"][index] = True
        if "key" in self.remembered:
            self.remembered["key"][index] = known.key[last]

    def _match(self, live: Tensor, known: Known, seed: int) -> Tensor:
        """What stands for each anchor's pair on this side."""
        if self.match == "live":
            return live
        index = known.index if self.match == "bank" else _draw_related(self.remembered["key"], known, seed)
        return self._take(index, live)

    def _take(self, index: Int[Tensor, " some"], like: Tensor) -> Tensor:
        return self.rows.index_select(0, index.to(self.rows.device)).to(like)

    def _fact(self, name: str, index: Int[Tensor, "*some"]) -> Tensor | None:
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
        best = lots.argmax()
        chosen.append(torch.where(lots[best] >= 0, best, index))
    return torch.stack(chosen)
