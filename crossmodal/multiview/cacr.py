"""Contrastive attraction and contrastive repulsion (Zheng et al. 2023, https://arxiv.org/abs/2105.03746)."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossmodal.contrast.pool import Relation
from crossmodal.contrast.queue import Queue
from crossmodal.distributed import gather, gather_with_gradient
from crossmodal.multiview import Multiview, Pairings, Views, answering, everyone
from crossmodal.multiview.common.pools import ViewPools
from crossmodal.objectives import Outcome


class CACR(Multiview):
    """Pulls an anchor's farther positives harder and pushes its closer negatives harder.

    The cost is c = |x - y|^2. An anchor's K positives are its pair in the candidate views. Its negatives are other
    pairs in one of these views, on all ranks; the loss is a mean over the views:

        pi+ = softmax(t_plus * c over positives)        attraction = sum pi+ c
        pi- = softmax(-t_minus * c over negatives)      repulsion = -sum pi- c
        loss = alpha * attraction + beta * repulsion, the mean over anchors

    t multiplies distances: 0 gives uniform weights, infinity the hardest example alone. `rbf` uses ln sum pi- exp(-t c)
    as the repulsion, which with uniform weights is alignment and uniformity between views. In the published code the
    weights carry gradient for small images (`graph`, the default: pi (1 + t (c - mean c)) reaches a cost), and are
    constants for ImageNet (`detached`: pi). Source: the paper's eq. 3 to 6.

    Departures from the published small-scale code: repulsion is computed for both orders of every two views, not only
    for x < y. With `tau_plus` (p), repulsion is -(sum pi- c - p * mean positive cost) / (1 - p), which subtracts the
    positives' share; the published code has the opposite sign there.

    An anchor without a negative, as in a batch of one, has repulsion 0.

    Raises:
        ValueError: an option is out of range, or `tau_plus` is combined with `rbf`.
    """

    def __init__(
        self,
        dim: int,
        pairings: Pairings,
        pairs: int,
        *,
        t_plus: float = 1.0,  # inverse temperature of attraction; no effect if anchors have one positive
        t_minus: float = 2.0,  # inverse temperature of repulsion
        alpha: float = 1.0,  # weight of attraction
        beta: float = 1.0,  # weight of repulsion
        cost: Literal["euclidean", "rbf"] = "euclidean",  # cost of repulsion
        rbf_t: float = 2.0,  # inverse width of rbf
        weights: Literal["graph", "detached"] = "graph",  # graph: gradient flows through pi; detached: it does not
        tau_plus: float = 0.0,  # expected share of negatives of the anchor's class, which is subtracted
        queue: int = 0,  # per view, number of keys from earlier steps as more negatives; 0: none
    ) -> None:
        super().__init__()
        finite = all(0 <= number < math.inf for number in (t_plus, t_minus, alpha, beta, queue))
        if not (finite and 0 < rbf_t < math.inf and 0 <= tau_plus < 1):
            raise ValueError("t_plus, t_minus, alpha, beta and queue must be at least 0, rbf_t above 0 and tau_plus "
                             f"from 0 to below 1, and all finite, got {t_plus}, {t_minus}, {alpha}, {beta}, {queue}, "
                             f"{rbf_t} and {tau_plus}")  # fmt: skip
        if cost not in ("euclidean", "rbf") or weights not in ("graph", "detached"):
            raise ValueError(f"cost must be euclidean or rbf and weights graph or detached, got {cost} and {weights}")
        if tau_plus and cost == "rbf":
            raise ValueError(f"tau_plus needs cost: euclidean, got {tau_plus} with rbf")
        self.t_plus, self.t_minus, self.alpha, self.beta = t_plus, t_minus, alpha, beta
        self.rbf_t = rbf_t if cost == "rbf" else None
        self.detaches, self.tau_plus = weights == "detached", tau_plus
        self.queues = ViewPools({
            view: Queue(Relation(), queue, dim, dtype=torch.float32) for view in (answering(pairings) if queue else ())
        })  # fmt: skip
        self.lonely = any(len([view for view, _ in pairings if view == anchor]) == 1 for anchor, _ in pairings)

    def forward(self, views: Views) -> Outcome:
        """The loss; the figures are attraction and repulsion before their weights."""
        attractions, repulsions = [], []
        rows_of_all, known = everyone(views, gathers=True)
        keys = rows_of_all.unflatten(0, (len(views.keys), -1))
        index = known.index[: keys.shape[1]]
        for anchor in views.anchors:
            rows, partners = views.queries[anchor], views.partners(anchor)
            positive = torch.stack([_squares(rows, views.keys[other]) for other in partners], 1)
            attraction = self._weighted(positive, self.t_plus, None)
            attractions.append(attraction.mean())
            for other in partners:
                candidates, numbers = keys[other], index
                if len(self.queues):
                    queued = self.queues[other].remembered
                    candidates = torch.cat([candidates, queued["rows"]])
                    numbers = torch.cat([numbers, queued["index"]])
                valid = (views.index[:, None] != numbers) & (numbers >= 0)
                repulsions.append(self._repel(rows, candidates, valid, positive))
        attraction, repulsion = torch.stack(attractions).mean(), torch.stack(repulsions).mean()
        figures = {"attraction": attraction.detach(), "repulsion": repulsion.detach()}
        return Outcome(self.alpha * attraction + self.beta * repulsion, self.queues.memo(views), figures)

    def remember(self, *memo: Tensor) -> None:
        """Adds each view's keys to its queue."""
        self.queues.remember(*memo)

    def memory(self) -> dict[str, Tensor]:
        """The queues' live tensors."""
        return self.queues.memory()

    def cautions(self) -> list[str]:
        """A warning if an anchor has a single positive, so that the weights of attraction have no effect."""
        if not self.lonely or self.t_plus == 0:
            return []
        return ["an anchor has one positive, so attraction is plain alignment for any t_plus; set crops: 4 or more, "
                "as published"]  # fmt: skip

    def _repel(
        self,
        rows: Float[Tensor, "batch dim"],
        candidates: Float[Tensor, "candidates dim"],
        valid: Bool[Tensor, "batch candidates"],
        positive: Float[Tensor, "batch positives"],
    ) -> Float[Tensor, ""]:
        costs = (2 - 2 * rows @ candidates.T).clamp(min=0)
        has = valid.any(1)
        if self.rbf_t is None:
            far = self._weighted(costs, -self.t_minus, valid)
            if self.tau_plus:
                far = (far - self.tau_plus * positive.mean(1)) / (1 - self.tau_plus)
            return -torch.where(has, far, 0.0).mean()
        weights = self._weights(costs, -self.t_minus, valid, log=True)
        near = (weights - self.rbf_t * costs).masked_fill(~valid, torch.finfo(costs.dtype).min).logsumexp(1)
        near, has = gather_with_gradient(near[:, None]).squeeze(1), gather(has)
        total = (
            near.masked_fill(~has, torch.finfo(costs.dtype).min).logsumexp(0)
            - has.sum().clamp(min=1).to(near.dtype).log()
        )
        return torch.where(has.any(), total, 0.0)

    def _weighted(self, costs: Tensor, t: float, valid: Tensor | None) -> Float[Tensor, " batch"]:
        return (self._weights(costs, t, valid) * costs).sum(1)

    def _weights(self, costs: Tensor, t: float, valid: Tensor | None, *, log: bool = False) -> Tensor:
        """Softmax of t times the costs over valid entries; other entries get 0 (or the log of nearly 0)."""
        sharp = t * (costs.detach() if self.detaches else costs)
        if valid is not None:
            sharp = sharp.masked_fill(~valid, torch.finfo(sharp.dtype).min)
        return sharp.log_softmax(1) if log else sharp.softmax(1)


def _squares(ours: Tensor, theirs: Tensor) -> Tensor:
    return (2 - 2 * (ours * theirs).sum(1)).clamp(min=0)
