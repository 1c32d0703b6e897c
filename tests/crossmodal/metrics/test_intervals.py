"""Confidence intervals: against scipy's bootstrap, closed forms, and by how often they hold the truth."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from crossmodal.metrics.intervals import UNITS, Estimate, Resampling, Totals
from modalities.common.random import generator


def draw(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator("intervals", name))


def test_totals_are_the_metric() -> None:
    truth, answer = torch.tensor([0, 0, 0, 1, -1]), torch.tensor([0, 1, 0, 1, 1])
    assert Totals.accuracy(answer, truth)() == pytest.approx(3 / 4)
    assert Totals.mean(torch.tensor([1.0, math.nan, 2.0]))() == pytest.approx(1.5)
    expected = balanced_accuracy_score(truth[:4], answer[:4])
    for classes in (2, 5):  # a class without test pairs does not count
        assert Totals.balanced((answer == truth).double(), truth, classes)() == pytest.approx(expected)


def test_the_spread_over_pairs_is_that_of_scipys_bootstrap() -> None:
    values = draw("values", 60)
    drawn = Resampling([""] * 60, draws=20_000)(Totals.mean(values))
    theirs = stats.bootstrap((values.numpy(),), np.mean, n_resamples=20_000, rng=0)
    assert drawn.std().item() == pytest.approx(theirs.standard_error, rel=0.03)


def test_the_spread_over_groups_is_that_of_scipys_bootstrap_of_whole_groups() -> None:
    sizes = torch.tensor([3, 10, 1, 7, 4, 8])
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    values = draw("groups", 6).repeat_interleave(sizes) + 0.1 * draw("values", 33)
    drawn = Resampling(groups, draws=20_000)(Totals.mean(values))
    sums = np.array([part.sum().item() for part in values.split(sizes.tolist())])

    def ratio(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
        return above.sum(axis) / below.sum(axis)

    theirs = stats.bootstrap((sums, sizes.numpy()), ratio, n_resamples=20_000, paired=True, rng=0)
    assert drawn.std().item() == pytest.approx(theirs.standard_error, rel=0.03)


def test_one_repetition_has_students_interval_over_pairs() -> None:
    values = draw("values", 40)
    resampling = Resampling([""] * 40, draws=50_000)
    totals = Totals.mean(values)
    found = Estimate((totals(),), resampling(totals)[None], resampling.units).interval()
    expected = stats.t.interval(0.95, 39, values.mean(), stats.sem(values.numpy()))
    assert found == pytest.approx(expected, abs=0.01)


def test_repetitions_alone_have_students_interval() -> None:
    runs = (0.5, 0.6, 0.55, 0.7)
    expected = stats.t.interval(0.95, 3, np.mean(runs), stats.sem(runs))
    assert Estimate(runs).interval() == pytest.approx(expected)
    less = Estimate(runs) - Estimate((0.4, 0.7, 0.5, 0.6))
    paired = stats.ttest_rel(runs, (0.4, 0.7, 0.5, 0.6)).confidence_interval()
    assert less.interval() == pytest.approx((paired.low, paired.high))


def test_two_groups_or_a_single_number_have_no_interval() -> None:
    resampling = Resampling(["a", "a", "b"])
    totals = Totals.mean(torch.tensor([0.0, 1.0, 1.0]))
    assert Estimate((totals(),), resampling(totals)[None], resampling.units).interval() is None
    assert Estimate((0.5,)).interval() is None


def test_a_difference_is_taken_pair_by_pair() -> None:
    hard = draw("hard", 200)  # both find the same pairs hard
    resampling = Resampling([""] * 200)
    ours, theirs = (Totals.mean(hard + shift) for shift in (0.1, 0.0))
    one, other = (Estimate((each(),), resampling(each)[None], resampling.units) for each in (ours, theirs))
    assert (one - other).interval() == pytest.approx((0.1, 0.1))
    assert one.interval()[1] - one.interval()[0] > 0.2  # type: ignore[index]


def test_a_difference_of_other_numbers_of_repetitions_has_both_spreads() -> None:
    found = (Estimate((0.6, 0.8)) - Estimate((0.1, 0.2, 0.3))).interval()
    assert found is not None
    parts = [(0.02 / 2, 1), (0.01 / 3, 2)]
    reach = math.sqrt(parts[0][0] + parts[1][0]) * sum(
        part / (parts[0][0] + parts[1][0]) * stats.t.ppf(0.975, freedom) for part, freedom in parts
    )
    assert found == pytest.approx((0.5 - reach, 0.5 + reach))


def test_many_pairs_are_put_together_without_another_spread() -> None:
    values = draw("many", 40_000)
    resampling = Resampling([""] * 40_000)
    assert resampling.units == UNITS
    assert resampling(Totals.mean(values)).std().item() == pytest.approx(values.std().item() / 200, rel=0.08)


@pytest.mark.parametrize(("groups", "repetitions", "of_repetitions"),
                         [(12, 1, 0.0), (12, 3, 0.02), (40, 5, 0.03), (6, 5, 0.03)])  # fmt: skip
def test_nineteen_of_twenty_intervals_hold_the_truth(groups: int, repetitions: int, of_repetitions: float) -> None:
    """Right and wrong answers, whose probability differs by group and by training."""
    resampling = Resampling([f"g{number // 30}" for number in range(30 * groups)], draws=300)
    random, held, tries = generator("coverage", groups, repetitions), 0, 400
    for _ in range(tries):
        of_group = 0.08 * torch.randn(groups, generator=random).repeat_interleave(30)
        of_run = of_repetitions * torch.randn(repetitions, 1, generator=random)
        answers = torch.rand(repetitions, 30 * groups, generator=random) < 0.5 + of_group + of_run
        totals = [Totals.mean(run.double()) for run in answers]
        drawn = torch.stack([resampling(each) for each in totals])
        interval = Estimate(tuple(each() for each in totals), drawn, resampling.units).interval()
        assert interval is not None
        held += interval[0] <= 0.5 <= interval[1]
    assert 0.925 <= held / tries <= 0.985  # the standard error of 95 % is 1.1 points
