"""A certificate: a bound that also holds for what a finite number of drawn weights leaves unknown, and its parts."""

import math
from dataclasses import dataclass

from crossmodal.certificates.bounds import complexity
from crossmodal.certificates.checks import check_count, check_delta, check_positive, check_risk
from crossmodal.certificates.small_kl import kl_inverse_up


def monte_carlo_upper(risk: float, draws: int, *, delta: float) -> float:
    """A bound on the risk over all weights, from the mean `risk` over `draws` of them, with probability 1 - delta.

    kl^-1( risk | ln(2 / delta) / n ). Losses of independent draws lie in [0, 1], so by Chernoff's bound, which
    Hoeffding 1963, theorem 1, extends from coins to such losses, their mean falls to a value q below its expectation p
    with probability exp(-n small_kl(q, p)) at most; set that to delta / 2 and solve for p. The other half of delta is
    for a mean above p, which a bound does not need; we keep it, as the source does.

    What counts as a draw is a new draw of all the weights, whatever number of examples it is judged on: ten networks
    are 10, however many the examples. The draws' expectations need not be equal, so each may be judged on another of
    equal parts of the examples, that together hold each as often: the same work gives as many more draws, and a bound
    as much tighter. The draws must be made after all choices, or `delta` shared among what was chosen from.

    Source: Langford and Caruana 2001, (Not) Bounding the True Error, NIPS 14; as in Dziugaite and Roy 2017,
    https://arxiv.org/abs/1703.11008.

    Raises:
        ValueError: `risk` is not from 0 to 1, `draws` is below 1, or `delta` not between 0 and 1.
    """
    check_risk(risk)
    check_count(draws, "draws")
    check_delta(delta)
    return kl_inverse_up(risk, math.log(2 / delta) / draws)


@dataclass(frozen=True)
class Certificate:
    """A bound on a stochastic network's risk that holds with probability 1 - `delta`, and what it is made of.

    Attributes:
        train_risk: The mean loss over the drawn weights, from 0 to `greatest`.
        kl: KL(posterior || prior), in nats.
        union: What the choice among priors costs, in nats.
        complexity: kl + union + ln(2 sqrt(examples) / (delta - delta_monte_carlo)), in nats.
        monte_carlo_slack: By how much the risk over all weights may exceed `train_risk`.
        total: The bound; `greatest` where it says nothing.
        without_monte_carlo: What would be printed if `train_risk` were taken for the risk over all weights and all of
            `delta` spent on the rest. Not a bound.
        delta: The probability that `total` is below the risk, at most.
        delta_monte_carlo: The part of `delta` that the drawn weights take.
        examples: m, independent examples (or batches) behind the risk.
        draws: n, independent draws of the weights behind it.
        greatest: The loss's range.
    """

    train_risk: float
    kl: float
    union: float
    complexity: float
    monte_carlo_slack: float
    total: float
    without_monte_carlo: float
    delta: float
    delta_monte_carlo: float
    examples: int
    draws: int
    greatest: float

    def shares(self) -> dict[str, float]:
        """What each part adds to the bound, in this order, each on top of those before it; they sum to `total`."""
        bare = self.complexity - self.kl - self.union
        spent = {"confidence": bare, "union": bare + self.union, "kl": self.complexity}
        found = {"train risk": self.train_risk, "monte carlo": self.monte_carlo_slack}
        below = self.train_risk + self.monte_carlo_slack
        upper = min(1.0, below / self.greatest)  # the sum may be rounded to just above 1
        for part, nats in spent.items():
            bound = self.greatest * kl_inverse_up(upper, nats / self.examples)
            found[part], below = bound - below, bound
        return found


def certify(
    risk: float,
    kl: float,
    *,
    examples: int,
    draws: int,
    delta: float = 0.05,
    delta_monte_carlo: float = 0.01,
    union: float = 0.0,
    greatest: float = 1.0,
) -> Certificate:
    """Bounds the risk by `bounds.kl_inverse` of `monte_carlo_upper`, both inverted, for both to hold at once.

    Args:
        risk: The mean loss over `draws` weights and all examples, from 0 to `greatest`.
        kl: KL(posterior || prior) in nats; with a prior on a grid, that of the grid's scale.
        examples: m, independent of the prior and of each other. For a loss of batches, their number.
        draws: n; see `monte_carlo_upper` for what counts.
        delta: The probability with which the certificate may be wrong, all in all.
        delta_monte_carlo: The part of `delta` for the drawn weights; the rest is for the examples.
        union: In nats, for priors on a grid `gaussians.Snapped.union`.
        greatest: The loss's range.

    Raises:
        ValueError: `risk` is not from 0 to `greatest`, `kl` or `union` is below 0, `examples` or `draws` below 1,
            `delta` not between 0 and 1, `delta_monte_carlo` not between 0 and `delta`, `greatest` not above 0; or one
            is NaN.
    """
    check_positive(greatest, "greatest")
    check_risk(risk, greatest=greatest)
    check_delta(delta)
    if not 0 < delta_monte_carlo < delta:
        raise ValueError(f"delta_monte_carlo must be above 0 and below delta, {delta}, got {delta_monte_carlo}")
    upper = monte_carlo_upper(risk / greatest, draws, delta=delta_monte_carlo)
    nats = complexity(kl, examples, delta=delta - delta_monte_carlo, union=union)
    optimistic = complexity(kl, examples, delta=delta, union=union)
    return Certificate(
        train_risk=risk,
        kl=kl,
        union=union,
        complexity=nats,
        monte_carlo_slack=greatest * upper - risk,
        total=greatest * kl_inverse_up(upper, nats / examples),
        without_monte_carlo=greatest * kl_inverse_up(risk / greatest, optimistic / examples),
        delta=delta,
        delta_monte_carlo=delta_monte_carlo,
        examples=examples,
        draws=draws,
        greatest=greatest,
    )
