"""Directions of surfaces, read off the maps of a network that sees no depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.evaluation import Evaluation, Pairs
from crossmodal.evaluation.common.dense import Dense, pairs_with
from crossmodal.evaluation.common.tasks import Quality, Score, Task, mean_of, refuse_none
from modalities import CropBox

WITHIN = 11.25  # degrees
EDGE = 1.1  # ratio of neighbouring distances from which they belong to different surfaces


@dataclass(frozen=True)
class Normals(Dense, Evaluation):
    """Angle between a depth camera's surface normals and those that a decoder gives of the maps."""

    inflates: ClassVar[bool] = True

    focal: float  # focal length over the width of the picture that the view shows, both in pixels
    suffix: str = ""  # after the metrics' names and headings, to tell two such evaluations apart
    height: int | None = None  # of the depth maps, pixels; null: the students' view's
    width: int | None = None  # of the depth maps, pixels
    pictures: tuple[int | None, ...] = (10, 50, None)  # pictures with depth that decoders learn from; null: all
    draws: int = 3  # random choices of these pictures, the same for every network, whose metrics are averaged
    maps: tuple[int, ...] | None = None  # stages of the students, from 0; null: each grid's last, of stride 8 or more
    teacher_maps: tuple[int, ...] | None = None  # the same of the teacher
    decoder: Literal["linear", "conv", "fpn"] = "linear"  # from maps to normals
    decoder_width: int = 128  # channels of conv and fpn
    steps: int = 300  # optimiser steps of a decoder on frozen maps
    batch_size: int = 32  # pictures in a step
    lr: float = 1e-2  # peak learning rate of AdamW
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
        if not 0 < self.focal < 100:
            raise ValueError(f"focal must be above 0 and below 100 widths of the picture, got {self.focal}")

    def qualities(self) -> tuple[Quality, ...]:
        """Over all pixels together."""
        space = f" {self.suffix}" if self.suffix else ""
        return (
            Quality(f"angle{self.suffix}", f"angle{space}, degrees", higher_is_better=False, percent=False),
            Quality(f"within_11{self.suffix}", f"within {WITHIN} degrees{space}"),
        )

    def task(self, pairs: Pairs) -> Task:
        """The normals of the pairs' depth.

        Raises:
            ValueError: the view is stretched, so that pixels may not be square.
        """
        self.truth_view(pairs, pairs.test, "depth")
        view = self.truth_view(pairs, pairs.train, "depth")
        if view.modality.fit != "crop":
            raise ValueError(f"normals need square pixels, so views with fit: crop, got {view.modality.fit}")
        return Directions(view, self.focal, tuple(quality.name for quality in self.qualities()))

    def usable(self, pairs: Pairs, shards: Shards) -> list[int]:
        """Pairs that have depth."""
        return pairs_with(shards, "depth")


@dataclass(frozen=True)
class Directions(Task):
    """The unit normal of each place, towards the camera: right, down, forward. Answers may have any length."""

    focal: float
    keys: tuple[str, ...]  # of the two metrics

    @property
    def outputs(self) -> int:
        """A vector."""
        return 3

    def prepare(self, adapted: Float[Tensor, "batch 1 height width"], box: CropBox) -> Float[Tensor, "batch 3 _ _"]:
        """Unit normals, 0 where there is none; the camera's axis is in the middle of the whole picture."""
        height, width = adapted.shape[2:]
        middle = (0.5 - box.left) / box.width * width, (0.5 - box.top) / box.height * height
        if box.flip:
            middle = width - middle[0], middle[1]
        # of a whole view, a pixel is a width-th of the focal length's unit in both directions
        return normals_of(adapted, (self.focal * width / box.width, self.focal * width / box.height), middle)

    def targets(self, truth: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """The normals themselves."""
        return truth, truth.any(1, keepdim=True).float()

    def loss(self, answer: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
        """1 - cosine."""
        cosine = (F.normalize(answer, dim=1, eps=1e-6) * target).sum(1, keepdim=True)
        return mean_of((weight - cosine).sum(), weight)

    def score(self) -> Score:
        """Sums of angles."""
        return Angles(self.keys)

    def picture(self, answer: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        """The vector's numbers as colours."""
        return self.show(F.normalize(answer, dim=0))

    def show(self, truth: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        """The vector's numbers as colours; no normal is black."""
        return torch.where(truth.any(0), (truth + 1) / 2, 0.0)


class Angles(Score):
    """Sums over all places with a normal."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys, self.sums, self.count = keys, torch.zeros(2, dtype=torch.float64), 0

    def add(self, answer: Tensor, truth: Tensor) -> None:
        """Judges places with a normal."""
        known = truth.any(1)
        cosine = (F.normalize(answer.double(), dim=1) * truth).sum(1)[known]
        angle = cosine.clamp(-1, 1).acos().rad2deg()
        self.sums += torch.stack([angle.sum(), (angle < WITHIN).sum()]).cpu()
        self.count += angle.numel()

    def values(self) -> dict[str, float]:
        """Mean angle in degrees, and the share below `WITHIN`."""
        return dict(zip(self.keys, (self.sums / refuse_none(self.count)).tolist(), strict=True))


def normals_of(
    depth: Float[Tensor, "batch 1 height width"], focal: tuple[float, float], middle: tuple[float, float]
) -> Float[Tensor, "batch 3 height width"]:
    """Unit normals towards the camera (right, down, forward), 0 at borders, edges and where a neighbour has no reading.

    In the picture of a plane the inverse of the distance along the axis is linear: n . p = 1 with p = z (x, y, 1) gives
    1 / z = n . (x, y, 1), where x and y are pixels from the middle over the focal length. So central differences give
    the normals of planes exactly.

    Args:
        depth: metres, 0 where there is no reading.
        focal: focal length in pixels, across and down.
        middle: where the camera's axis meets the picture, pixels from the left and from the top.
    """
    height, width = depth.shape[2:]
    near = torch.where(depth > 0, 1 / depth.clamp(min=1e-9), 0.0).double()
    padded = F.pad(near, (1, 1, 1, 1))
    left, right, above, below = (
        padded[..., 1 + down : 1 + down + height, 1 + across : 1 + across + width]
        for down, across in ((0, -1), (0, 1), (-1, 0), (1, 0))
    )
    across, down = (right - left) / 2 * focal[0], (below - above) / 2 * focal[1]
    x = (torch.arange(width, device=depth.device) + 0.5 - middle[0]) / focal[0]
    y = (torch.arange(height, device=depth.device) + 0.5 - middle[1]) / focal[1]
    forward = near - across * x - down * y[:, None]
    neighbours = torch.cat([near, left, right, above, below], 1)
    least, most = neighbours.amin(1, keepdim=True), neighbours.amax(1, keepdim=True)
    normal = -F.normalize(torch.cat([across, down, forward], 1), dim=1)
    return torch.where((least > 0) & (most < EDGE * least), normal, 0.0).float()
