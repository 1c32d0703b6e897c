"""Confidence intervals of metrics over groups of test pairs and over repeated trainings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from modalities.common.random import generator

LEAST = 3  # independent units of which a spread is measured
UNITS = 1000  # at most; more are put together at random, which leaves the spread of their mean as it is


@dataclass(frozen=True)
class Totals:
    """A metric as a function of sums over test pairs, so that it can be computed again on resampled pairs."""

    added: Float[Tensor, "pairs sums"]  # what each pair adds
    value: Callable[[Float[Tensor, "*draws sums"]], Float[Tensor, "*draws"]]  # the metric of the sums

    @classmethod
    def mean(cls, values: Float[Tensor, " pairs"]) -> "Totals":
        """The mean of one number a pair; pairs whose number is NaN do not count."""
        there = ~values.isnan()
        return cls(torch.stack([values.nan_to_num(0.0), there], 1).double(), lambda sums: sums[..., 0] / sums[..., 1])

    @classmethod
    def accuracy(cls, answer: Int[Tensor, " pairs"], truth: Int[Tensor, " pairs"]) -> "Totals":
        """The share of right answers; pairs whose truth is -1 do not count."""
        return cls.mean((answer == truth).double().masked_fill(truth < 0, math.nan))

    @classmethod
    def balanced(cls, right: Float[Tensor, " pairs"], truth: Int[Tensor, " pairs"], classes: int) -> "Totals":
        """Balanced accuracy: the mean over classes of the share of right answers among pairs of that class.

        Args:
            right: whether the answer is right, from 0 to 1.
            truth: class of each pair, -1: not judged.
            classes: their number.
        """
        ours = F.one_hot(truth + 1, classes + 1)[:, 1:].double()
        return cls(torch.cat([right[:, None] * ours, ours], 1), _mean_of_ratios)

    def __call__(self) -> float:
        """The metric itself."""
        return self.value(self.added.sum(0)).item()


def _mean_of_ratios(sums: Float[Tensor, "*draws sums"]) -> Float[Tensor, "*draws"]:
    above, below = sums.chunk(2, -1)
    return (above / below).nanmean(-1)  # a class without pairs is 0 / 0


@dataclass(frozen=True)
class Resampling:
    """The bootstrap over groups of test pairs: the same draws for every metric, so that differences are paired."""

    groups: Sequence[str]  # of each test pair, such as its recording; empty: the pair is a unit of its own
    draws: int = 2000
    seed: int = 0

    @cached_property
    def unit(self) -> Int[Tensor, " pairs"]:
        """The number of the unit that each pair belongs to."""
        names = [("group", name) if name else ("pair", place) for place, name in enumerate(self.groups)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        own = torch.tensor([numbers[name] for name in names])
        if len(numbers) <= UNITS:
            return own
        return (torch.randperm(len(numbers), generator=generator(self.seed, "units")) % UNITS)[own]

    @cached_property
    def units(self) -> int:
        """The number of units."""
        return int(self.unit.max()) + 1

    @cached_property
    def counts(self) -> Float[Tensor, "draws units"]:
        """How often each draw has each unit."""
        chosen = torch.randint(self.units, (self.draws, self.units), generator=generator(self.seed, "bootstrap"))
        return torch.zeros(self.draws, self.units, dtype=torch.float64).scatter_add_(
            1, chosen, torch.ones(self.draws, self.units, dtype=torch.float64)
        )

    def __call__(self, totals: Totals) -> Float[Tensor, " draws"]:
        """The metric on every draw; NaN where a draw has no pair that counts."""
        sums = torch.zeros(self.units, totals.added.shape[1], dtype=torch.float64)
        return totals.value(self.counts @ sums.index_add_(0, self.unit, totals.added))


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions, such as trainings with other seeds or choices of labels, or a difference of two."""

    runs: tuple[float, ...]  # the metric in each repetition
    resampled: Float[Tensor, "runs draws"] | None = None  # each on every draw of test groups
    units: int = 0  # test groups that were drawn
    less: "Estimate | None" = None  # what is subtracted; it has another number of repetitions

    @property
    def mean(self) -> float:
        """The mean over repetitions."""
        own = sum(self.runs) / len(self.runs)
        return own - self.less.mean if self.less else own

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference; repetition by repetition where there are as many of both."""
        if len(self.runs) != len(other.runs):
            return Estimate(self.runs, self.resampled, self.units, other)
        runs = tuple(mine - theirs for mine, theirs in zip(self.runs, other.runs, strict=True))
        if self.resampled is None or other.resampled is None:
            return Estimate(runs)
        return Estimate(runs, self.resampled - other.resampled, self.units)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """A t interval for other test groups and other repetitions; None where neither spread can be measured.

        Groups and repetitions are crossed: each repetition is judged by all groups. The variance is that of the
        bootstrap over groups, plus that of the mean over repetitions, less what both contain: the part that belongs to
        a group in a repetition (Owen 2007, The pigeonhole bootstrap, https://arxiv.org/abs/0712.1111). The quantile is
        the mean of the sources' t quantiles, weighted by variance (Cochran and Cox 1950). Fewer than `LEAST` groups
        have no interval. A single repetition has one for other groups only.
        """
        sides = [self, self.less] if self.less else [self]
        drawn = [side.resampled for side in sides if side.resampled is not None]
        parts = [(torch.tensor(side.runs, dtype=torch.float64).var().item() / len(side.runs), len(side.runs) - 1)
                 for side in sides if len(side.runs) > 1]  # fmt: skip
        twice = 0.0
        if len(drawn) == len(sides):
            if self.units < LEAST:
                return None
            factor = self.units / (self.units - 1)
            means = [each.mean(0) for each in drawn]
            parts.append((factor * _variance(means[0] - means[1] if self.less else means[0]), self.units - 1))
            twice = factor * sum(_variance(each - mean) / (len(each) - 1)
                                 for each, mean in zip(drawn, means, strict=True) if len(each) > 1)  # fmt: skip
        elif not parts:
            return None
        variance = max(sum(part for part, _ in parts) - twice, *(part for part, _ in parts), 0.0)
        if variance == 0:
            return self.mean, self.mean
        weights = [part / sum(part for part, _ in parts) for part, _ in parts]
        quantiles = [float(stdtrit(degrees, (1 + confidence) / 2)) for _, degrees in parts]
        reach = math.sqrt(variance) * sum(weight * each for weight, each in zip(weights, quantiles, strict=True))
        return self.mean - reach, self.mean + reach


def _variance(values: Float[Tensor, "*runs draws"]) -> float:
    """The variance over draws, as a mean over repetitions; draws without a value do not count."""
    rows = values.reshape(-1, values.shape[-1])
    return torch.stack([row[~row.isnan()].var() for row in rows]).mean().item()
