"""Statistics of the signals of a field, from sums that several processes can share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities import Modality

PIECE = 1 << 22  # numbers of a signal whose moments are computed at once, in float64


def moments_of(modality: Modality) -> "Moments | ClassShares":
    """Empty statistics of a field."""
    return ClassShares(modality.classes) if modality.classes else Moments(modality.nothing)


@dataclass
class Moments:
    """Running moments of a field's signals; "no reading", NaN or exact zeros (also silence), is counted separately."""

    nothing: float = 0.0  # the modality's value without reading
    count: int = 0
    without: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, signal: Tensor) -> None:
        """Adds a signal."""
        for piece in signal.flatten().split(PIECE):
            self._add(piece.numpy())

    def _add(self, signal: np.ndarray) -> None:
        there = ~np.isnan(signal) if math.isnan(self.nothing) else signal != 0
        values = torch.from_numpy(signal[there]).double()  # indexing in torch would take 24 bytes per number
        self.without += signal.size - values.numel()
        if values.numel():
            self.count += values.numel()
            self.total += values.sum().item()
            self.squares += values.square().sum().item()
            self.low, self.high = min(self.low, values.min().item()), max(self.high, values.max().item())

    def sums(self) -> dict[str, Any]:
        """The sums that `join` reads, as plain content."""
        low, high = (self.low, self.high) if self.count else (None, None)
        return {"count": self.count, "without": self.without, "total": self.total, "squares": self.squares,
                "low": low, "high": high}  # fmt: skip

    def join(self, sums: Mapping[str, Any]) -> None:
        """Adds the `sums` of further signals."""
        self.count, self.without = self.count + sums["count"], self.without + sums["without"]
        self.total, self.squares = self.total + sums["total"], self.squares + sums["squares"]
        if sums["count"]:
            self.low, self.high = min(self.low, sums["low"]), max(self.high, sums["high"])

    def summary(self) -> dict[str, float]:
        """Mean, standard deviation, extremes, and the share without reading."""
        if not self.count:
            return {self._name: 1.0}
        mean = self.total / self.count
        return {
            "mean": round(mean, 6),
            "std": round(max(self.squares / self.count - mean**2, 0.0) ** 0.5, 6),
            "min": round(self.low, 6),
            "max": round(self.high, 6),
            self._name: round(self.without / (self.without + self.count), 6),
        }

    @property
    def _name(self) -> str:
        return "no_reading_share" if math.isnan(self.nothing) else "zero_share"


class ClassShares:
    """The share of pixels of each class in a field's label maps."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.counts = np.zeros(1 + len(classes), dtype=np.int64)  # the first: of pixels without a label

    def add(self, signal: Tensor) -> None:
        """Adds a label map."""
        self.counts += np.bincount(signal.flatten().long().numpy() + 1, minlength=len(self.counts))

    def sums(self) -> dict[str, Any]:
        """The sums that `join` reads, as plain content."""
        return {"counts": self.counts.tolist()}

    def join(self, sums: Mapping[str, Any]) -> None:
        """Adds the `sums` of further label maps."""
        self.counts += np.array(sums["counts"], dtype=np.int64)

    def summary(self) -> dict[str, float]:
        """The share of each class among the labelled pixels, and the share of the others."""
        bare, *counts = self.counts.tolist()
        shares = {
            f"share.{name}": count / max(sum(counts), 1) for name, count in zip(self.classes, counts, strict=True)
        }
        shares["unlabelled_share"] = bare / max(self.counts.sum().item(), 1)
        return {name: float(f"{share:.6g}") for name, share in shares.items()}
