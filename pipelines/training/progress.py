"""The counters of a training, and the metrics that it sums between two lines of its log."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Progress:
    """The state of a training besides its tensors."""

    step: int = 0
    calibrated: bool = False  # whether the statistics that objectives need before training are measured
    seconds: float = 0.0  # of training, with those before interruptions
    replaced: int = 0  # unreadable pairs that another pair replaced, on all ranks
    peak_mb: float = 0.0  # peak memory before interruptions
    paces: list[float] = field(default_factory=list)  # seconds a step, one for each line of the log
    last: dict[str, float] = field(default_factory=dict)  # last line of the log
    sums: dict[str, Tensor] = field(default_factory=dict)  # of an accumulator that an interruption left open


@dataclass
class MetricAccumulator:
    """Sums of metrics since the last line of the log, on the device, with the number of step parts in each sum.

    A metric that is NaN has no value in that part and is left out; a loss that is NaN is not.
    """

    losses: frozenset[str]  # names of the metrics that are losses
    before: float = 0.0  # seconds of earlier accumulators in this process
    steps: int = 0
    pairs: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)  # [sum, parts]
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since this accumulator was made, above 0."""
        return max(time.monotonic() - self.began, 1e-9)

    @property
    def total_seconds(self) -> float:
        """Seconds of training in this process."""
        return self.before + self.seconds

    def add(self, parts: list[dict[str, Tensor]], pairs: int) -> None:
        """Adds the metrics of a step, given for each part."""
        self.steps += 1
        self.pairs += pairs
        for metrics in parts:
            for name, value in metrics.items():
                one = torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
                one = one if name in self.losses else torch.where(value.isnan(), 0.0, one)
                self.sums[name] = self.sums.get(name, 0.0) + one
