"""The KL divergence of two Bernoulli distributions and its inverses, exact to 1e-12."""

import math

from crossmodal.certificates.checks import check_nats, check_risk


def small_kl(q: float, p: float) -> float:
    """KL(Bernoulli(q) || Bernoulli(p)) in nats: 0 if they are equal, infinite where p excludes what q allows.

    Raises:
        ValueError: `q` or `p` is not from 0 to 1.
    """
    check_risk(q, "q")
    check_risk(p, "p")
    return max(0.0, _term(q, p, q - p) + _term(1 - q, 1 - p, p - q))


def kl_inverse_up(q: float, budget: float) -> float:
    """The greatest p with small_kl(q, p) <= `budget` (nats), by bisection; rounded up, so that bounds stay bounds.

    Raises:
        ValueError: `q` is not from 0 to 1, or `budget` is below 0 or NaN.
    """
    check_risk(q, "q")
    check_nats(budget, "budget")
    if budget == 0 or q == 1:
        return q
    inside, outside = q, 1.0
    while outside - inside > 1e-13:
        middle = (inside + outside) / 2
        if small_kl(q, middle) <= budget:
            inside = middle
        else:
            outside = middle
    return outside


def kl_inverse_down(q: float, budget: float) -> float:
    """The least p with small_kl(q, p) <= `budget` (nats); rounded down.

    Raises:
        ValueError: as `kl_inverse_up`.
    """
    check_risk(q, "q")
    check_nats(budget, "budget")
    return q if budget == 0 else 1 - kl_inverse_up(1 - q, budget)


def _term(q: float, p: float, difference: float) -> float:
    """Q ln(q / p); log1p if they are close, because the two terms of a divergence then nearly cancel."""
    if q == 0:
        return 0.0
    if p == 0:
        return math.inf
    return q * (math.log1p(difference / p) if abs(difference) < p / 2 else math.log(q) - math.log(p))
