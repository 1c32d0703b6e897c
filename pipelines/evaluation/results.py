"""What an evaluation has measured: figures by network, over repetitions, with confidence intervals."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from crossmodal.evaluation import Artefacts
from crossmodal.metrics.intervals import Estimate, Resampling, Totals


@dataclass(frozen=True)
class Row:
    """One repetition of everything that is measured of a network; one process measures it, and rank 0 records it."""

    who: str
    # by metric: on all test pairs, and on every draw of test groups where it comes from single pairs
    figures: dict[str, tuple[float, Tensor | None]]
    shown: dict[str, Artefacts]  # by evaluation; without `totals`


@dataclass
class Runs:
    """One figure of one network, repetition by repetition."""

    values: list[float] = field(default_factory=list)
    resampled: list[Tensor] = field(default_factory=list)  # of each repetition, on every draw of test groups

    def add(self, value: float, resampled: Tensor | None) -> None:
        """One more repetition."""
        self.values.append(value)
        if resampled is not None:
            self.resampled.append(resampled)


@dataclass
class Table:
    """Figures by network and name."""

    resampling: Resampling
    rows: dict[str, dict[str, Runs]] = field(default_factory=dict)

    def add(self, who: str, name: str, value: float, totals: Totals | None = None) -> None:
        """One more repetition of a figure; `totals` tell what each test pair adds to it."""
        self.record(who, name, value, None if totals is None else self.resampling(totals))

    def record(self, who: str, name: str, value: float, resampled: Tensor | None) -> None:
        """One more repetition of a figure, and the figure on every draw of test groups."""
        self.rows.setdefault(who, {}).setdefault(name, Runs()).add(value, resampled)

    def estimate(self, who: str, name: str) -> Estimate | None:
        """The figure with its uncertainty, or None where it was not measured."""
        found = self.rows.get(who, {}).get(name)
        if found is None:
            return None
        whole = len(found.resampled) == len(found.values)
        resampled = torch.stack(found.resampled) if whole else None
        return Estimate(tuple(found.values), resampled, self.resampling.units)

    def summaries(self, is_share: Callable[[str], bool] = lambda name: True) -> dict[str, dict[str, dict[str, Any]]]:
        """Mean, sample standard deviation, the numbers themselves and the 95 % interval of every figure.

        Intervals of shares, which `is_share` tells by name, end at 0 and 1.
        """
        return {who: {name: self._summary(who, name, is_share(name)) for name in row} for who, row in self.rows.items()}

    def _summary(self, who: str, name: str, is_share: bool) -> dict[str, Any]:
        estimate = self.estimate(who, name)
        assert estimate is not None
        interval = estimate.interval() if estimate.resampled is not None else None
        if interval and is_share:
            interval = max(0.0, interval[0]), min(1.0, interval[1])
        return summary(estimate.runs) | ({"interval": [round(end, 5) for end in interval]} if interval else {})


def summary(runs: tuple[float, ...]) -> dict[str, Any]:
    """Mean and sample standard deviation of numbers, with the numbers themselves."""
    return {
        "mean": round(statistics.mean(runs), 5),
        "std": round(statistics.stdev(runs), 5) if len(runs) > 1 else None,
        "runs": [round(value, 5) for value in runs],
    }


def means(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """The mean of each."""
    return {name: round(statistics.mean(runs), 5) for name, runs in figures.items()}
