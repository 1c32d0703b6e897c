"""Contrastive losses: from scores of anchors against candidates to losses and their gradients.

Scores are cosines over a temperature. `positive` masks an anchor's positives (None: the first candidate, for every
anchor) and `valid` the others that count (None: all). A candidate in neither mask is ignored. An anchor without a
positive has loss 0. Finite scores give finite results. `bias` is subtracted from all scores if the loss depends on it;
its gradient is minus the sum of the scores' gradients.

Each loss returns the anchors' losses and d loss / d scores, and may overwrite the scores. The closed form takes a few
passes over memory, where autograd takes and stores many.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Scores = Float[Tensor, "anchors candidates"]
Mask = Bool[Tensor, "#anchors candidates"]  # one row if it is equal for all anchors
Scored = tuple[Float[Tensor, " anchors"], Scores]
Head = Callable[[Tensor, Tensor | None, Tensor | None, Tensor], Scored]  # of scores, positive, valid, bias

# The AVX-512 log1p masks its read of a constant that only -0.0 needs. Until a real read maps that page, AMD cores spend
# 150 ns per vector on the masked read: softplus is 6 times as fast after this line.
torch.log1p(torch.full((16,), -0.0))


def infonce(scores: Scores, positive: Mask | None, valid: Mask | None, bias: Float[Tensor, ""]) -> Scored:
    """-log softmax(scores)[positive], a mean over an anchor's positives, in nats; `bias` cancels.

    Sources: van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, eq. 4; with several positives the supervised
    contrastive loss, Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 2 (L_out).
    """
    share, has = _shares(scores, positive)
    own = scores[:, 0].clone() if share is None else (scores * share).sum(1)
    if valid is not None:
        scores.masked_fill_(~which_matter(scores, positive, valid), -math.inf)
    greatest = scores.amax(1, keepdim=True).clamp_(min=torch.finfo(scores.dtype).min)  # -inf without candidates
    each = scores.sub_(greatest).exp_()
    total = each.sum(1, keepdim=True)
    losses = (total.log() + greatest).squeeze(1) - own
    gradient = each.div_(total)
    if share is None:
        gradient[:, 0] -= 1
        return losses, gradient
    return losses.masked_fill_(~has, 0.0), gradient.sub_(share).masked_fill_(~has[:, None], 0.0)


def infonce_in(scores: Scores, positive: Mask | None, valid: Mask | None, bias: Float[Tensor, ""]) -> Scored:
    """-log of the mean over an anchor's positives of softmax(scores), in nats; `bias` cancels. Never above `infonce`.

    Source: Khosla et al. 2020, https://arxiv.org/abs/2004.11362, eq. 3 (L_in).
    """
    share, has = _shares(scores, positive)
    if share is None:
        return infonce(scores, positive, valid, bias)
    of_all = scores if valid is None else scores.masked_fill(~which_matter(scores, positive, valid), -math.inf)
    of_own = scores.masked_fill(share.eq(0), -math.inf)
    losses = of_all.logsumexp(1) - of_own.logsumexp(1) + (share > 0).sum(1).clamp(min=1).to(scores.dtype).log()
    gradient = of_all.softmax(1) - of_own.softmax(1)
    return losses.masked_fill_(~has, 0.0), gradient.masked_fill_(~has[:, None], 0.0)


def nce(
    scores: Scores, positive: Mask | None, valid: Mask | None, bias: Float[Tensor, ""],
    *, negatives: int | None = None, epsilon: float = 0.0,
) -> Scored:  # fmt: skip
    """CRD's critic: -log h(positive) - sum over K negatives of log(1 - h(negative)), h = sigmoid(s - ln K - bias).

    With `bias` = ln(Z / N), the log of the mean of exp(s), this is logistic regression, so dL/ds = h - C. K is the
    number of valid negatives, or `negatives` if given: each valid one then counts negatives / K times, as in the
    expectation of a draw of that many. Several positives share the weight of one. The published code adds a constant to
    K in denominators only; `epsilon` is that constant relative to K, so a negative costs ln(1 + epsilon) more.

    Source: Tian, Krishnan, Isola 2020, https://arxiv.org/abs/1910.10699, eq. 10-11 and 18, with Z as in the published
    code; the formula without Z saturates.
    """
    count = _count_negatives(scores, positive, valid)
    some, extra = count.clamp(min=1), math.log1p(epsilon)
    wanted, level = (count, some.log()) if negatives is None else (negatives, math.log(negatives))
    losses, gradient = _logistic(scores.sub_(bias + (level + extra)), positive, valid, wanted / some)
    if epsilon:
        losses[:, None].add_(wanted * extra)
    return losses, gradient


def sigmoid(scores: Scores, positive: Mask | None, valid: Mask | None, bias: Float[Tensor, ""]) -> Scored:
    """Binary classification of every candidate as positive or negative, in nats.

    -log of sigmoid(s - bias) for positives and of sigmoid(bias - s) for the rest, summed over an anchor's candidates;
    several positives share the weight of one.

    Source: Zhai et al. 2023, https://arxiv.org/abs/2303.15343, eq. 1, whose b is -`bias`.
    """
    return _logistic(scores.sub_(bias), positive, valid, torch.ones_like(scores[:1, :1]))


def _logistic(margin: Tensor, positive: Tensor | None, valid: Tensor | None, weight: Tensor) -> Scored:
    """Softplus of the negatives' margins, times the anchor's weight, and of minus the positive's margin."""
    if positive is not None:
        return _logistic_of_several(margin, positive, valid, weight)
    own, rest = margin[:, 0], margin[:, 1:]
    own.neg_()
    if valid is not None:
        rest.masked_fill_(~valid[:, 1:], -math.inf)  # adds neither loss nor gradient
    each = F.softplus(margin)
    losses = torch.addcmul(each[:, 0], each[:, 1:].sum(1), weight.squeeze(1))
    margin.sigmoid_()
    own.neg_()
    rest.mul_(weight)
    return losses, margin


def _logistic_of_several(margin: Tensor, positive: Tensor, valid: Tensor | None, weight: Tensor) -> Scored:
    share, has = _shares(margin, positive)
    assert share is not None
    own = margin.clone()
    if valid is not None:
        margin.masked_fill_(~valid, -math.inf)
    margin.masked_fill_(positive, -math.inf)
    losses = F.softplus(margin).sum(1).mul_(weight.squeeze(1))
    gradient = margin.sigmoid_().mul_(weight)
    losses += (F.softplus(-own) * share).sum(1)
    gradient -= (-own).sigmoid() * share
    return losses.masked_fill_(~has, 0.0), gradient.masked_fill_(~has[:, None], 0.0)


def _shares(scores: Tensor, positive: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """1 / their number at positives and 0 elsewhere (None if the positive is the first); and which anchors have any."""
    if positive is None:
        return None, torch.ones_like(scores[:, 0], dtype=torch.bool)
    share = positive.to(scores.dtype)
    count = share.sum(1, keepdim=True)
    return share.div_(count.clamp(min=1)), count.squeeze(1) > 0


def which_matter(scores: Scores, positive: Mask | None, valid: Mask | None) -> Mask:
    """The candidates that are positive or valid."""
    if valid is None:
        return scores.new_ones(1, scores.shape[1], dtype=torch.bool)
    first = torch.arange(valid.shape[1], device=valid.device) == 0
    return valid | (first if positive is None else positive)


def _count_negatives(scores: Tensor, positive: Tensor | None, valid: Tensor | None) -> Tensor:
    if positive is not None:
        apart = ~positive if valid is None else valid & ~positive
    elif valid is not None:
        apart = valid[:, 1:]
    else:
        return scores.new_full((1, 1), scores.shape[1] - 1)
    return apart.sum(1, keepdim=True, dtype=scores.dtype)
