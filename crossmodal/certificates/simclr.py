"""Bounds for the SimCLR loss, whose terms within a batch share their negatives and so depend on each other.

Source: Van Elst, Ghoshdastidar 2024, https://arxiv.org/abs/2412.03486, by its code,
https://github.com/anna-vanelst/simclr-pb at d49f196 (read for facts; no licence); the derivation here is our own. Its
letters: n pairs, batch m, temperature tau, delta 0.04. All of delta goes to the bound. A finite number of drawn weights
costs a delta of its own: pass `certificate.monte_carlo_upper` of risk / range, times range, as `risk`. The loss of pair
i among m is -ln( exp(s_ii / tau) / sum_j exp(s_ij / tau) ), s the cosines of one crop of pair i with the other crop of
pair j; or its mean over both directions. Each batch is drawn once, in disjoint parts.
"""

import math

from crossmodal.certificates.bounds import kl_inverse
from crossmodal.certificates.checks import check_count, check_delta, check_nats, check_positive, check_risk


def simclr_range(temperature: float, candidates: int) -> float:
    """2 / tau + ln m: the loss with `candidates` in its denominator, the positive among them, lies from 0 to this.

    The loss that also uses negatives of its own crop has 2 m - 1 candidates.

    Raises:
        ValueError: `temperature` is not above 0, or `candidates` below 1.
    """
    check_positive(temperature, "temperature")
    check_count(candidates, "candidates")
    return 2 / temperature + math.log(candidates)


def simclr_difference(temperature: float, batch: int) -> float:
    """4 / tau + (m - 1) ln( (m - 1 + exp(2 / tau)) / m ): how much another pair can change a batch's sum of losses.

    The pair's own loss moves by at most 4 / tau. Each other loss has one summand of its denominator changed from exp(-1
    / tau) to exp(1 / tau), at most, beside m - 1 that are exp(-1 / tau) at least. Only valid for m candidates.

    Raises:
        ValueError: `temperature` is not above 0, or `batch` below 1.
    """
    check_positive(temperature, "temperature")
    check_count(batch, "batch")
    exponent = 2 / temperature
    share = exponent + math.log1p((batch - 1) * math.exp(-exponent)) - math.log(batch)  # exp(2 / tau) may overflow
    return 2 * exponent + (batch - 1) * share


def batch_block(
    risk: float, kl: float, pairs: int, batch: int, *, delta: float, greatest: float, union: float = 0.0
) -> float:
    """Batches as the independent examples: greatest * kl^-1( R / greatest | (m/n) (KL + ln(2 sqrt(n/m) / delta)) ).

    Valid for any loss of batches of range `greatest`: `simclr_range`, or 1 for a zero-one loss. `risk` is the mean over
    whole batches; pairs that fill no batch are left out, so n / m is rounded down.

    Raises:
        ValueError: `pairs` do not fill a `batch`, `greatest` is not above 0, `risk` not from 0 to it; or as
            `bounds.kl_inverse`.
    """
    check_positive(greatest, "greatest")
    check_risk(risk, greatest=greatest)
    check_count(batch, "batch")
    check_count(pairs, "pairs", least=batch)
    return greatest * kl_inverse(risk / greatest, kl, pairs // batch, delta=delta, union=union)


def mcdiarmid_mcallester(
    risk: float, kl: float, pairs: int, *, delta: float, difference: float, union: float = 0.0
) -> float:
    """R + C sqrt( (KL + ln(2 n / delta)) / (2 (n - 1)) ), with C the `difference` one pair makes to its batch's sum.

    `risk` is the mean over whole batches and n, `pairs`, the number of pairs in them. C is `simclr_difference`; or 2
    for the zero-one loss, the share of a pair's m - 1 negatives that are no farther than its positive: its own loss
    moves by at most 1, each other by 1 / (m - 1).

    By McDiarmid's inequality the mean over n pairs deviates from its expectation by e or more with probability at most
    2 exp(-2 n e^2 / C^2), so E exp(2 (n - 1) e^2 / C^2) <= 2 n under the prior, and the change of measure follows.
    Better than `batch_block` where C < range * sqrt(m), about: at large temperatures.

    Raises:
        ValueError: `risk` is below 0 or infinite, `pairs` below 2, `difference` not above 0, `kl` or `union` below 0,
            `delta` not between 0 and 1, or one is NaN.
    """
    if not 0 <= risk < math.inf:
        raise ValueError(f"risk must be 0 or more and finite, got {risk}")
    check_nats(kl, "kl")
    check_nats(union, "union")
    check_count(pairs, "pairs", least=2)
    check_delta(delta)
    check_positive(difference, "difference")
    return risk + difference * math.sqrt((kl + union + math.log(2 * pairs / delta)) / (2 * (pairs - 1)))
