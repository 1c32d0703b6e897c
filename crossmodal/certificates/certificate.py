"""A certificate: a bound that also covers the uncertainty of a finite number of drawn weights, and its parts."""

import math
from dataclasses import dataclass

from crossmodal.certificates.bounds import complexity
from crossmodal.certificates.checks import check_count, check_delta, check_positive, check_risk
from crossmodal.certificates.small_kl import kl_inverse_up


def monte_carlo_upper(risk: float, draws: int, *, delta: float) -> float:
    """A bound on the risk over all weights, from the mean `risk` over `draws` of them, with probability 1 - delta.

    kl^-1( risk | ln(2 / delta) / n ). Losses of independent draws lie in [0, 1]. By Chernoff's bound, which Hoeffding
    1963, theorem 1, extends from coins to such losses, their mean falls to a value q below its expectation p with
    probability at most exp(-n small_kl(q, p)); set that to delta / 2 and solve for p. The other half of delta is for a
    mean above p, which a bound does not need; it is kept, as in the source.

    A draw is a new draw of all the weights, whatever number of examples it is judged on: ten networks are 10 draws. The
    draws' expectations need not be equal. So each draw may be judged on another of equal parts of the examples, if
    together they use every example equally often: the same work then gives more draws and a tighter bound. The draws
    must be made after all choices, or `delta` shared among the candidates of the choice.

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
    """A bound on a stochastic network's risk that holds with probability 1 - `delta`, and its parts.

    Attributes:
        train_risk: The mean loss over the drawn weights, from 0 to `greatest`.
        kl: KL(posterior || prior), in nats.
        union: The cost of the choice among priors, in nats.
        complexity: kl + union + ln(2 sqrt(examples) / (delta - delta_monte_carlo)), in nats.
        monte_carlo_slack: The bound on how much the risk over all weights exceeds `train_risk`.
        total: The bound; `greatest` if it is vacuous.
        without_monte_carlo: The value if `train_risk` were the risk over all weights and all of `delta` were spent on
            the examples. Not a bound.
        delta: The maximum probability that `total` is below the risk.
        delta_monte_carlo: The part of `delta` for the drawn weights.
        examples: m, independent examples (or batches) behind the risk.
        draws: n, independent draws of the weights behind it.
        greatest: The upper limit of the loss.
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
        """The increase of the bound by each part, each on top of those before it; they sum to `total`."""
        bare = self.complexity - self.kl - self.union
        spent = {"confidence": bare, "union": bare + self.union, "kl": self.complexity}
        shares = {"train risk": self.train_risk, "monte carlo": self.monte_carlo_slack}
        below = self.train_risk + self.monte_carlo_slack
        upper = min(1.0, below / self.greatest)  # the sum may be rounded to just above 1
        for part, nats in spent.items():
            bound = self.greatest * kl_inverse_up(upper, nats / self.examples)
            shares[part], below = bound - below, bound
        return shares


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
    """Bounds the risk by `bounds.kl_inverse` of `monte_carlo_upper`, both inverted, so that both hold at once.

    Args:
        risk: The mean loss over `draws` weights and all examples, from 0 to `greatest`.
        kl: KL(posterior || prior) in nats; with a prior on a grid, that of the grid's scale.
        examples: m, independent of the prior and of each other. For a loss of batches, their number.
        draws: n; see `monte_carlo_upper` for what counts.
        delta: The total probability with which the certificate may be wrong.
        delta_monte_carlo: The part of `delta` for the drawn weights; the rest is for the examples.
        union: In nats; for priors on a grid, `gaussians.Snapped.union`.
        greatest: The upper limit of the loss.

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
