"""Scores anchors against candidates and applies a loss, piece by piece."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossmodal.contrast.losses import Head, Mask, which_matter

PIECE = 1 << 22  # scores, or entries of gathered rows, at once on a CPU: 16 MiB of float32
WIDER = 16  # times as many on other devices, which small products leave idle
SPARSE = 9  # from this ratio of rows to picked rows on, only the picked ones are read and multiplied
COLDEST = 1e-3  # lowest temperature; scores reach its inverse, where float32 resolves 6e-5
IN_PLACE = ("cpu",)  # devices that read picked rows without gathering them; others are faster on gathered ones

with warnings.catch_warnings():  # torch warns once per process that sparse CSR tensors are in beta state
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([]).long(), torch.tensor([]), check_invariants=False)

Relate = Callable[[slice | Tensor], tuple[Mask | None, Mask | None]]  # some anchors -> their positive and valid masks


@dataclass(frozen=True)
class Candidates:
    """The candidates of a batch's anchors.

    An anchor's candidates are its match (the positive), if there is one, then its picked rows, or all rows.
    """

    rows: Float[Tensor, "rows dim"]  # half precision is converted in blocks
    relate: Relate
    match: Float[Tensor, "batch dim"] | None = None
    picked: Int[Tensor, "batch picked"] | None = None  # picked rows get no gradient

    def part(self, piece: slice | Tensor, dtype: torch.dtype) -> "Piece":
        """The candidates of one piece of the anchors, whose scores are computed in `dtype`."""
        match, picked = (None if item is None else item[piece] for item in (self.match, self.picked))
        return Piece(self.rows, match, picked, dtype)

    def only(self, chosen: Int[Tensor, " some"]) -> "Candidates":
        """The candidates of some of the anchors."""
        match, picked = (None if item is None else item[chosen] for item in (self.match, self.picked))
        return Candidates(self.rows, lambda piece: self.relate(chosen[piece]), match, picked)

    def pieces(self, anchors: Float[Tensor, "batch dim"]) -> list[slice]:
        """Slices of the anchors, so that each slice's scores or gathered rows fit in memory."""
        first = self.part(slice(0), anchors.dtype)
        gathers = first.few and not first.in_place
        entries = first.columns * anchors.shape[1] if gathers else first.columns + (self.match is not None)
        size = max(1, (PIECE if anchors.device.type == "cpu" else WIDER * PIECE) // max(entries, 1))
        return [slice(start, start + size) for start in range(0, max(len(anchors), 1), size)]


@dataclass(frozen=True)
class Piece:
    """The candidates of one piece of the anchors."""

    rows: Float[Tensor, "rows dim"]
    match: Float[Tensor, "anchors dim"] | None
    picked: Int[Tensor, "anchors picked"] | None
    dtype: torch.dtype  # of the anchors

    @property
    def columns(self) -> int:
        """The number of candidates of an anchor besides its match."""
        return len(self.rows) if self.picked is None else self.picked.shape[1]

    @property
    def few(self) -> bool:
        """True if only picked rows are read; otherwise a product with all rows and a gather of scores is faster."""
        return self.picked is not None and len(self.rows) > SPARSE * self.columns

    @property
    def in_place(self) -> bool:
        """True if picked rows are read without gathering them."""
        return self.rows.device.type in IN_PLACE and self.rows.dtype == self.dtype

    def score(self, anchors: Float[Tensor, "anchors dim"]) -> Float[Tensor, "anchors candidates"]:
        """The dot products of the anchors with their candidates."""
        scores = anchors.new_empty(len(anchors), (self.match is not None) + self.columns)
        rest = scores[:, (self.match is not None) :]
        if self.match is not None:
            torch.bmm(self.match[:, None], anchors[:, :, None], out=scores[:, :1, None])
        if self.picked is None:
            self._score_all(anchors, rest)
        elif not self.few:
            torch.gather(self._score_all(anchors, self._every), 1, self.picked, out=rest)
        elif self.in_place:
            ends = self.columns * torch.arange(len(anchors) + 1, dtype=torch.int32)  # a quarter faster than int64
            entries = self.picked.int().flatten(), rest.new_zeros(self.picked.numel())
            size = len(anchors), len(self.rows)
            where = torch.sparse_csr_tensor(ends, *entries, size, check_invariants=False)
            rest.copy_(torch.sparse.sampled_addmm(where, anchors, self.rows.T, beta=0).values().view_as(rest))
        else:
            torch.bmm(self._gathered, anchors[:, :, None], out=rest[:, :, None])
        return scores

    def pull(self, slope: Float[Tensor, "anchors candidates"]) -> Float[Tensor, "anchors dim"]:
        """The sum of the candidates, each times its slope."""
        rest = slope if self.match is None else slope[:, 1:]
        if self.picked is None:
            pulled = self._pull_all(rest)
        elif not self.few:
            pulled = self._pull_all(self._every.zero_().scatter_add_(1, self.picked, rest))
        elif self.in_place:
            pulled = F.embedding_bag(self.picked, self.rows, mode="sum", per_sample_weights=rest.contiguous())
        else:
            pulled = torch.bmm(rest[:, None], self._gathered).squeeze(1)
        return pulled if self.match is None else pulled.addcmul_(slope[:, :1], self.match)

    def _score_all(self, anchors: Tensor, out: Tensor) -> Tensor:
        for some, rows in self._blocks():
            torch.mm(anchors, rows.T, out=out[:, some])
        return out

    def _pull_all(self, slope: Float[Tensor, "anchors rows"]) -> Float[Tensor, "anchors dim"]:
        pulled = [slope[:, some] @ rows for some, rows in self._blocks()]
        return sum(pulled[1:], pulled[0])

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in the anchors' precision, in blocks if they must be converted."""
        size = len(self.rows) if self.rows.dtype == self.dtype else max(1, PIECE // self.rows.shape[1])
        for start in range(0, len(self.rows), size):
            some = slice(start, start + size)
            yield some, self.rows[some].to(self.dtype)

    @cached_property
    def _every(self) -> Float[Tensor, "anchors rows"]:
        """A reused buffer with a column per row: on a CPU new memory costs as much as filling it."""
        assert self.picked is not None
        return self.rows.new_empty(len(self.picked), len(self.rows), dtype=self.dtype)

    @cached_property
    def _gathered(self) -> Float[Tensor, "anchors picked dim"]:
        assert self.picked is not None
        return self.rows.index_select(0, self.picked.flatten()).unflatten(0, self.picked.shape).to(self.dtype)


def contrast(
    head: Head,
    anchors: Float[Tensor, "batch dim"],
    candidates: Candidates,
    *,
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The sum of the anchors' losses; scores are dot products times `scale`, the inverse temperature.

    Gradients reach anchors, rows, match, scale and bias. They are computed together with the loss, piece by piece, so
    that the full matrix of scores is never stored; there is no second derivative.
    """
    return _Contrast.apply(head, candidates, anchors, candidates.rows, candidates.match, scale, bias)


@torch.no_grad()
def log_sum_exp(
    anchors: Float[Tensor, "batch dim"], candidates: Candidates, scale: Float[Tensor, ""]
) -> Float[Tensor, "2"]:
    """Ln of the sum of exp(score) over all anchors and their positives and negatives, and ln of their number."""
    sums, counts = [], []
    for piece in candidates.pieces(anchors):
        scores = candidates.part(piece, anchors.dtype).score(anchors[piece] * scale)
        matters = which_matter(scores, *candidates.relate(piece))
        counts.append(matters.expand_as(scores).sum(dtype=scores.dtype))
        sums.append(scores.masked_fill_(~matters, -math.inf).flatten().logsumexp(0))
    return torch.stack([torch.stack(sums).logsumexp(0), torch.stack(counts).sum().log()])


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Head, candidates: Candidates, *given: Tensor | None) -> Tensor:
        anchors, _, _, scale, bias = given
        assert anchors is not None and scale is not None and bias is not None
        fill, add = torch.empty_like, torch.zeros_like  # each piece has its own anchors and matches
        grads = [
            begin(item) if item is not None and want else None
            for begin, item, want in zip((fill, add, fill, add, add), given, ctx.needs_input_grad[2:], strict=True)
        ]
        sums = []
        for piece in candidates.pieces(anchors):
            part = candidates.part(piece, anchors.dtype)
            losses, slope = head(part.score(anchors[piece] * scale), *candidates.relate(piece), bias)
            sums.append(losses.sum())
            if any(grad is not None for grad in grads):
                _add_gradients(grads, slope, part, piece, (anchors[piece], scale))
        ctx.save_for_backward(*grads)
        return sum(sums[1:], sums[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *(None if item is None else item * grad for item in ctx.saved_tensors)


def _add_gradients(
    grads: list[Tensor | None], slope: Tensor, part: Piece, piece: slice, scored: tuple[Tensor, Tensor]
) -> None:
    """Adds a piece's gradients; `scored` holds its anchors and the scale, from which its scores were computed."""
    for_anchors, for_rows, for_match, for_scale, for_bias = grads
    anchors, scale = scored
    pulled = part.pull(slope)
    if for_anchors is not None:
        torch.mul(pulled, scale, out=for_anchors[piece])
    if for_rows is not None:
        assert part.picked is None
        for_rows.addmm_((slope if part.match is None else slope[:, 1:]).T, anchors * scale)
    if for_match is not None:
        torch.mul(slope[:, :1] * anchors, scale, out=for_match[piece])
    if for_scale is not None:
        for_scale.add_((anchors * pulled).sum())
    if for_bias is not None:
        for_bias.sub_(slope.sum())
