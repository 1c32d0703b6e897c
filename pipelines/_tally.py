"""What a training sums between two lines of its log."""

import time
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Tally:
    """Figures since the last line of the log, summed on the device."""

    before: float = 0.0  # seconds of earlier tallies of this sitting
    steps: int = 0
    pairs: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-9)

    @property
    def total_seconds(self) -> float:
        return self.before + self.seconds

    def add(self, figures: dict[str, Tensor], pairs: int) -> None:
        self.steps += 1
        self.pairs += pairs
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in figures.items()}
