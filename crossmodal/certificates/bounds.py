"""PAC-Bayes bounds: from a stochastic network's risk on examples to a bound on its risk, with probability 1 - delta.

All hold for every posterior at once, so one may choose among the posteriors of one prior by them. The letters of the
papers: R(Q) the risk on the examples, a mean of losses in [0, 1] (divide a wider loss by its range and multiply the
bound by it); kl KL(Q || P) in nats; m examples; lambda the trade-off; union the cost in nats of a union over priors:
ln(pi^2 j^2 / 6) for place j of `gaussians.ScaleGrid`, 0 for one prior.

Sources: Maurer 2004, https://arxiv.org/abs/cs/0411099, for ln(2 sqrt m), with m of 8 or more (a test computes smaller
m); Catoni 2007, https://arxiv.org/abs/0712.0248; Nozawa, Germain, Guedj 2020, https://arxiv.org/abs/1910.04464.
"""

import math

from jaxtyping import Float
from torch import Tensor

from crossmodal.certificates.checks import check_count, check_delta, check_nats, check_positive, check_risk
from crossmodal.certificates.small_kl import kl_inverse_up


def complexity(kl: float, examples: int, *, delta: float, union: float = 0.0) -> float:
    """KL + union + ln(2 sqrt(m) / delta), in nats: bounds m small_kl(R on examples, R) with probability 1 - delta.

    Raises:
        ValueError: `kl` or `union` is below 0, `examples` below 1, or `delta` not between 0 and 1; or one is NaN. All
            bounds of this file raise it for these.
    """
    check_nats(kl, "kl")
    check_nats(union, "union")
    check_count(examples, "examples")
    check_delta(delta)
    return kl + union + math.log(2 * math.sqrt(examples) / delta)


def kl_inverse(risk: float, kl: float, examples: int, *, delta: float, union: float = 0.0) -> float:
    """The greatest risk that `complexity` allows: the tightest bound here for independent examples; at most 1.

    Raises:
        ValueError: `risk` is not from 0 to 1; or as `complexity`.
    """
    check_risk(risk)
    return kl_inverse_up(risk, complexity(kl, examples, delta=delta, union=union) / examples)


def mcallester(risk: float, kl: float, examples: int, *, delta: float, union: float = 0.0) -> float:
    """R + sqrt(complexity / (2 m)): `kl_inverse` relaxed by Pinsker's inequality, so never below it; may exceed 1.

    Raises:
        ValueError: as `kl_inverse`.
    """
    check_risk(risk)
    return risk + math.sqrt(complexity(kl, examples, delta=delta, union=union) / (2 * examples))


def catoni(risk: float, kl: float, examples: int, trade_off: float, *, delta: float, union: float = 0.0) -> float:
    """Catoni's bound, for all lambda at once: [1 - exp(-(lambda R + complexity) / m)] / [1 - exp(-lambda / m)].

    Because `complexity` includes ln(2 sqrt m), lambda may be chosen afterwards; a lambda fixed in advance would not
    need that term. May exceed 1. Its minimum over lambda is `kl_inverse`, p, at lambda = m ln(p (1 - R) / (R (1 - p))).

    Raises:
        ValueError: `trade_off` is not above 0; or as `kl_inverse`.
    """
    check_risk(risk)
    check_positive(trade_off, "trade_off")
    nats = complexity(kl, examples, delta=delta, union=union)
    return _catoni(risk, nats / examples, trade_off / examples)


def catoni_minimised(risk: float, kl: float, examples: int, *, delta: float, union: float = 0.0) -> tuple[float, float]:
    """The minimum of `catoni` over lambda, and that lambda, by golden-section search on its logarithm.

    There is one minimum: lambda R + m ln(1 - p (1 - exp(-lambda / m))) is convex in lambda, so the lambdas whose bound
    is below p are an interval. With risk 0 the bound falls forever, and lambda is the end of the search, 1000 m.

    Raises:
        ValueError: as `kl_inverse`.
    """
    nats = complexity(kl, examples, delta=delta, union=union)
    check_risk(risk)

    def bound(log_ratio: float) -> float:
        return _catoni(risk, nats / examples, math.exp(log_ratio))

    low, high, golden = math.log(1e-9), math.log(1e3), (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = bound(left), bound(right)
    while high - low > 1e-7:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = bound(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = bound(right)
    return bound(high), examples * math.exp(high)


def catoni_objective(
    loss: Float[Tensor, ""],
    kl: Float[Tensor, ""],
    *,
    trade_off: float,
    delta: float,
    union: Float[Tensor, ""] | float = 0.0,
) -> Float[Tensor, ""]:
    """The training objective: loss + ( KL + union + ln(1 / delta) ) / lambda; gradients flow into all three.

    `loss` is a mean and may be any surrogate of the certified loss. With `ScaleGrid.union` at a real j this is the
    objective of Nozawa et al. for independent tuples, 2 ln b + 2 ln(ln c - 2 ln s_P) being 2 ln j.

    Raises:
        ValueError: `trade_off` is not above 0, or `delta` not between 0 and 1.
    """
    check_positive(trade_off, "trade_off")
    check_delta(delta)
    return loss + (kl + union - math.log(delta)) / trade_off


def chi_square(
    risk: float, log_chi_square: float, examples: int, *, delta: float, union: float = 0.0, dependence: int = 0
) -> float:
    """R + sqrt( (1 + 4 T) / (4 m delta) * exp(union) * (chi^2 + 1) ), for examples that may depend on T later ones.

    `log_chi_square` is ln(chi^2 + 1), in nats. T is `dependence`, 0 for independent examples (the published experiment
    uses the block size). With union ln(pi^2 j^2 / 6) this is R + pi j sqrt( (1 + 4 T) / (24 m delta) (chi^2 + 1) ). The
    bound is infinite instead of an overflow, and vacuous unless chi^2 is far below m.

    Derivation with `gaussians.log_chi_square`, chi^2(Q || P), and D(h) the gap of h between its risk and that on the
    examples: E_Q[D] = E_P[(q / p) D] <= sqrt( E_P[(q / p)^2] E_P[D^2] ), where E_P[(q / p)^2] is the integral of q^2 /
    p. P does not depend on the data, so Markov's inequality gives E_P[D^2] <= Var / delta. Examples more than T apart
    are independent, so Var <= (1 + 2 T) / (4 m), as no covariance of losses in [0, 1] exceeds 1/4; 1 + 4 T is the
    published constant, and on the safe side.

    Raises:
        ValueError: `dependence` or `log_chi_square` is below 0; or as `kl_inverse`.
    """
    check_risk(risk)
    check_nats(log_chi_square, "log_chi_square")
    check_nats(union, "union")
    check_count(examples, "examples")
    check_count(dependence, "dependence", least=0)
    check_delta(delta)
    exponent = (union + log_chi_square + math.log((1 + 4 * dependence) / (4 * examples * delta))) / 2
    return risk + math.exp(exponent) if exponent < 700 else math.inf


def _catoni(risk: float, nats: float, trade_off: float) -> float:
    """Catoni's bound, with the complexity and lambda both divided by m."""
    return math.expm1(-trade_off * risk - nats) / math.expm1(-trade_off)
