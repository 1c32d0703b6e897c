"""The contrast core: anchors against candidates, a head over their scores, piece by piece."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossmodal.contrast.heads import Head

PIECE = 1 << 22  # numbers held at once on a CPU: 16 MiB of float32
WIDER = 16  # times as many elsewhere, where small products leave the device idle
SPARSE = 12  # times more rows than picked ones: from here on rows are gathered, not all multiplied

Mask = Bool[Tensor, "#anchors candidates"]  # one row where it is the same for all anchors
Relate = Callable[[slice | Tensor], tuple[Mask | None, Mask | None]]  # of some anchors: positive and valid, for a head


@dataclass(frozen=True)
class Candidates:
    """What the anchors of a batch are contrasted with.

    An anchor's candidates are its match, where there is one, then the picked rows, or all rows.
    """

    rows: Float[Tensor, "rows dim"]
    relate: Relate
    match: Float[Tensor, "batch dim"] | None = None
    picked: Int[Tensor, "batch picked"] | None = None  # rows that are picked get no gradient

    @property
    def columns(self) -> int:
        """Scores of an anchor."""
        return (self.match is not None) + (len(self.rows) if self.picked is None else self.picked.shape[1])

    def only(self, chosen: Int[Tensor, " some"]) -> "Candidates":
        """The same for some of the anchors."""
        match = None if self.match is None else self.match[chosen]
        picked = None if self.picked is None else self.picked[chosen]
        return Candidates(self.rows, lambda piece: self.relate(chosen[piece]), match, picked)

    def pieces(self, anchors: Float[Tensor, "batch dim"]) -> list[slice]:
        """Runs of anchors whose scores may be held at once."""
        size = max(1, _budget(anchors) // max(self.columns, 1))
        return [slice(start, start + size) for start in range(0, len(anchors), size)]

    def score(
        self, anchors: Float[Tensor, "anchors dim"], piece: slice | Tensor
    ) -> Float[Tensor, "anchors candidates"]:
        """The products of one piece's anchors with their candidates."""
        scores = anchors.new_empty(len(anchors), self.columns)
        rest = scores
        if self.match is not None:
            scores[:, 0], rest = (anchors * self.match[piece]).sum(1), scores[:, 1:]
        if self.picked is None:
            torch.mm(anchors, self.rows.T, out=rest)
        elif self._is_dense:  # a product with all rows and a gather of numbers is faster than a gather of rows
            torch.gather(anchors @ self.rows.T, 1, self.picked[piece], out=rest)
        else:
            some = max(1, _budget(anchors) // max(self.picked.shape[1] * anchors.shape[1], 1))
            for score, anchor, picked in zip(
                rest.split(some), anchors.split(some), self.picked[piece].split(some), strict=True
            ):
                rows = self.rows.index_select(0, picked.flatten()).unflatten(0, picked.shape)
                torch.bmm(rows, anchor[:, :, None], out=score[:, :, None])
        return scores

    def pull(self, slope: Float[Tensor, "anchors candidates"], piece: slice) -> Float[Tensor, "anchors dim"]:
        """The sum of one piece's candidates, each times its slope."""
        rest = slope if self.match is None else slope[:, 1:]
        if self.picked is None:
            pulled = rest @ self.rows
        elif self._is_dense:
            spread = slope.new_zeros(len(slope), len(self.rows)).scatter_add_(1, self.picked[piece], rest)
            pulled = spread @ self.rows
        else:
            pulled = F.embedding_bag(self.picked[piece], self.rows, per_sample_weights=rest.contiguous(), mode="sum")
        return pulled if self.match is None else pulled.addcmul_(slope[:, :1], self.match[piece])

    @property
    def _is_dense(self) -> bool:
        return self.picked is not None and len(self.rows) <= SPARSE * self.picked.shape[1]


def contrast(
    head: Head,
    anchors: Float[Tensor, "batch dim"],
    candidates: Candidates,
    *,
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The sum over anchors of a head's losses; scores are products times `scale`, the inverse temperature.

    Gradients reach anchors, rows, match, scale and bias. They are computed with the loss, piece by piece, so that
    neither all scores nor anything of their size is kept; there is no second derivative.
    """
    return _Contrast.apply(head, candidates, anchors, candidates.rows, candidates.match, scale, bias)


@torch.no_grad()
def log_mean_exp(
    anchors: Float[Tensor, "batch dim"], candidates: Candidates, scale: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """Ln of the mean of exp(score) over all anchors and candidates: CRD's ln(Z / N), as published."""
    pieces = candidates.pieces(anchors)
    sums = [candidates.score(anchors[piece] * scale, piece).flatten().logsumexp(0) for piece in pieces]
    return torch.stack(sums).logsumexp(0) - math.log(len(anchors) * candidates.columns)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Head, candidates: Candidates, *given: Tensor | None) -> Tensor:
        anchors, _, _, scale, bias = given
        assert anchors is not None and scale is not None and bias is not None
        grads = [
            torch.zeros_like(item) if item is not None and want else None
            for item, want in zip(given, ctx.needs_input_grad[2:], strict=True)
        ]
        total = anchors.new_zeros(())
        for piece in candidates.pieces(anchors):
            losses, slope = head(candidates.score(anchors[piece] * scale, piece), *candidates.relate(piece), bias)
            total += losses.sum()
            if any(grad is not None for grad in grads):
                _add_gradients(grads, slope, candidates, piece, (anchors[piece], scale))
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, None, *(None if item is None else item * grad for item in ctx.saved_tensors)


def _add_gradients(
    grads: list[Tensor | None], slope: Tensor, candidates: Candidates, piece: slice, scored: tuple[Tensor, Tensor]
) -> None:
    """What a piece adds: its scores are the products of candidates with `scored`, its anchors and the scale."""
    for_anchors, for_rows, for_match, for_scale, for_bias = grads
    anchors, scale = scored
    pulled = candidates.pull(slope, piece)
    if for_anchors is not None:
        for_anchors[piece] = pulled * scale
    if for_rows is not None:
        assert candidates.picked is None
        for_rows.addmm_((slope if candidates.match is None else slope[:, 1:]).T, anchors * scale)
    if for_match is not None:
        for_match[piece] = slope[:, :1] * anchors * scale
    if for_scale is not None:
        for_scale.add_((anchors * pulled).sum())
    if for_bias is not None:
        for_bias.sub_(slope.sum())


def _budget(tensor: Tensor) -> int:
    return PIECE if tensor.device.type == "cpu" else WIDER * PIECE
