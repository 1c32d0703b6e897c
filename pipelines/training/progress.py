"""What a training counts, and what it sums between two lines of its log."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Progress:
    """What a training knows besides its tensors."""

    step: int = 0
    seconds: float = 0.0  # of training, over all its sittings
    replaced: int = 0  # times that another pair stood in for an unreadable one, on all ranks
    peak_mb: float = 0.0  # of memory in earlier sittings
    paces: list[float] = field(default_factory=list)  # seconds a step, one for each line of the log
    last: dict[str, float] = field(default_factory=dict)  # line of the log
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the tally that the last sitting left open


@dataclass
class MetricAccumulator:
    """Figures since the last line of the log, summed on the device, and of how many parts of steps each is.

    A figure that is NaN is of nothing in that part, but for losses, of which nothing is overlooked.
    """

    losses: frozenset[str]  # names of the figures that are losses
    before: float = 0.0  # seconds of earlier tallies of this sitting
    steps: int = 0
    pairs: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)  # [sum, parts]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since this process began, above 0."""
        return max(time.monotonic() - self.began, 1e-9)

    @property
    def total_seconds(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.before + self.seconds

    def add(self, parts: list[dict[str, Tensor]], pairs: int) -> None:
        """The figures of a step, part by part."""
        self.steps += 1
        self.pairs += pairs
        for figures in parts:
            for name, value in figures.items():
                one = torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
                one = one if name in self.losses else torch.where(value.isnan(), 0.0, one)
                self.sums[name] = self.sums.get(name, 0.0) + one
