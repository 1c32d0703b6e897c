"""Distances, read off the maps of a network that sees no depth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.evaluation import Evaluation, Pairs
from crossmodal.evaluation.common.dense import Dense, pairs_with
from crossmodal.evaluation.common.pictures import to_legend
from crossmodal.evaluation.common.tasks import Quality, Score, Task, refuse_none, squared_error
from modalities.depth import Depth


@dataclass(frozen=True)
class DepthRegression(Dense, Evaluation):
    """Error of distances that a decoder gives of the maps, frozen or fine-tuned, by pictures with depth."""

    inflates: ClassVar[bool] = True

    suffix: str = ""  # after the metrics' names and headings, to tell two such evaluations apart
    height: int | None = None  # of the depth maps, pixels; null: the students' view's
    width: int | None = None  # of the depth maps, pixels
    pictures: tuple[int | None, ...] = (10, 50, None)  # pictures with depth that decoders learn from; null: all
    draws: int = 3  # random choices of these pictures, the same for every network, whose metrics are averaged
    maps: tuple[int, ...] | None = None  # stages of the students, from 0; null: each grid's last, of stride 8 or more
    teacher_maps: tuple[int, ...] | None = None  # the same of the teacher
    decoder: Literal["linear", "conv", "fpn"] = "linear"  # from maps to the logarithm of metres
    decoder_width: int = 128  # channels of conv and fpn
    steps: int = 300  # optimiser steps of a decoder on frozen maps
    batch_size: int = 32  # pictures in a step
    lr: float = 3e-3  # peak learning rate of AdamW
    weight_decay: float = 1e-2  # of AdamW
    fine_tuned: tuple[int | None, ...] = (50,)  # pictures with depth that encoder and decoder learn from together
    fine_tuned_steps: int = 200  # optimiser steps
    fine_tuned_batch_size: int = 16  # pictures in a step
    fine_tuned_lr: float = 1e-3  # peak learning rate of AdamW
    fine_tuned_weight_decay: float = 0.05  # of AdamW
    scale: tuple[float, float] = (0.6, 1.0)  # smallest and largest share of the area that a random crop keeps
    ratio: tuple[float, float] = (0.8, 1.25)  # smallest and largest width over height of a crop, over the view's
    flip: float = 0.5  # probability that a crop is mirrored left to right

    def __post_init__(self) -> None:
        self.check()

    def qualities(self) -> tuple[Quality, ...]:
        """Depth errors over all pixels (Eigen, Puhrsch, Fergus 2014, https://arxiv.org/abs/1406.2283)."""
        space = f" {self.suffix}" if self.suffix else ""
        return (
            Quality(f"abs_rel{self.suffix}", f"relative error{space}", higher_is_better=False, percent=False),
            Quality(f"rmse{self.suffix}", f"RMSE{space}, m", higher_is_better=False, percent=False),
            Quality(f"delta{self.suffix}", f"within 1.25{space}"),
        )

    def task(self, pairs: Pairs) -> Task:
        """The depth of the pairs."""
        self.truth_view(pairs, pairs.test, "depth")
        view = self.truth_view(pairs, pairs.train, "depth")
        return Distances(view, tuple(quality.name for quality in self.qualities()))

    def usable(self, pairs: Pairs, shards: Shards) -> list[int]:
        """Pairs that have depth."""
        return pairs_with(shards, "depth")


@dataclass(frozen=True)
class Distances(Task):
    """The distance of each place; answers are logarithms of metres."""

    starts_at_mean: ClassVar[bool] = True
    keys: tuple[str, ...]  # of the three metrics

    @property
    def outputs(self) -> int:
        """One logarithm."""
        return 1

    def targets(self, truth: Float[Tensor, "batch 1 height width"]) -> tuple[Tensor, Tensor]:
        """The logarithm of metres."""
        known = (truth > 0).float()
        return torch.where(truth > 0, truth, 1.0).log(), known

    def loss(self, answer: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
        """Squared error, up to a constant."""
        return squared_error(answer, target, weight)

    def score(self) -> Score:
        """Sums of errors."""
        return DistanceErrors(self.keys)

    def picture(self, answer: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """The answer in the colours of depth."""
        return self.show(answer.exp())

    def legend(self) -> dict[str, str]:
        """Some distances, in equal ratios."""
        depth = self.view.modality
        assert isinstance(depth, Depth)
        metres = [depth.min_m * (depth.max_m / depth.min_m) ** (step / 4) for step in range(5)]
        return to_legend([f"{distance:.2g} m" for distance in metres], self.show(torch.tensor(metres)[None, None]))


class DistanceErrors(Score):
    """Sums over all places with a reading."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys, self.sums, self.count = keys, torch.zeros(3, dtype=torch.float64), 0

    def add(self, answer: Tensor, truth: Tensor) -> None:
        """Judges places with a reading."""
        known = truth > 0
        metres, ours = truth[known].double(), answer[known].double().exp()
        error, ratio = ours - metres, torch.maximum(ours / metres, metres / ours)
        found = (error.abs() / metres).sum(), error.square().sum(), (ratio < 1.25).sum()
        self.sums += torch.stack([each.double().cpu() for each in found])
        self.count += metres.numel()

    def values(self) -> dict[str, float]:
        """Mean relative error, root mean squared error in metres, and share within a factor of 1.25."""
        relative, squared, within = (self.sums / refuse_none(self.count)).tolist()
        return dict(zip(self.keys, (relative, math.sqrt(squared), within), strict=True))
