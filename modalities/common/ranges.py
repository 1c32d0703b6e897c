"""Whether the range that a view shows fits the numbers of its field, by the statistics in a manifest."""

from collections.abc import Mapping


def bounds_of_half(statistics: Mapping[str, float]) -> tuple[float, float]:
    """Two numbers such that at least half of all numbers lie above the first, and at least half below the second.

    No more than half of any numbers lie below their mean less its standard deviation, and no more than half above
    their sum (Cantelli's inequality), so that a tail, such as a far sky, is not taken for the bulk.

    Args:
        statistics: mean, std, min and max of the numbers.
    """
    mean, std, low, high = (statistics[name] for name in ("mean", "std", "min", "max"))
    return max(low, mean - std), min(high, mean + std)
