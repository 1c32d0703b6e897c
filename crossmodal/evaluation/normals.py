"""Directions of surfaces, read off the maps of a network that sees no depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.evaluation import Evaluation, Pairs
from crossmodal.evaluation.common.dense import Dense, pairs_with
from crossmodal.evaluation.common.pictures import to_legend
from crossmodal.evaluation.common.tasks import Quality, Score, Task, refuse_none, squared_error
from modalities import CropBox, Modality
from modalities.depth import Depth
from modalities.synthetic.scene import Scene

WITHIN = 11.25  # degrees
FLAT = 0.02  # deviation from a plane, root mean square over a window and relative to its mean, that is still one


@dataclass(frozen=True)
class Normals(Dense, Evaluation):
    """Angle between a depth camera's surface normals and those that a decoder gives of the maps."""

    inflates: ClassVar[bool] = True

    focal: float  # focal length of the depth camera over the width of its pictures, both in pixels
    window: int = 5  # side of the square in which a plane is fitted, stored pixels; odd
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
        if not 0 < self.focal < 100:
            raise ValueError(f"focal must be above 0 and below 100 widths of the picture, got {self.focal}")
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and at least 3, got {self.window}")

    def qualities(self) -> tuple[Quality, ...]:
        """Over all pixels together."""
        space = f" {self.suffix}" if self.suffix else ""
        return (
            Quality(f"angle{self.suffix}", f"angle{space}, degrees", higher_is_better=False, percent=False),
            Quality(f"within_11{self.suffix}", f"within {WITHIN} degrees{space}"),
        )

    def task(self, pairs: Pairs) -> Task:
        """The normals of the pairs' depth."""
        self.truth_view(pairs, pairs.test, "depth")
        view = self.truth_view(pairs, pairs.train, "depth")
        assert isinstance(view.modality, Depth)
        normals = SurfaceNormals(view.modality, self.focal, self.window, view.modality.fit)
        return Directions(View(normals), tuple(quality.name for quality in self.qualities()))

    def usable(self, pairs: Pairs, shards: Shards) -> list[int]:
        """Pairs that have depth."""
        return pairs_with(shards, "depth")


@dataclass(frozen=True)
class Directions(Task):
    """The unit normal of each place, towards the camera: right, down, forward. Answers may have any length."""

    keys: tuple[str, ...]  # of the two metrics

    @property
    def outputs(self) -> int:
        """A vector."""
        return 3

    def targets(self, truth: Float[Tensor, "batch 3 height width"]) -> tuple[Tensor, Tensor]:
        """The normals themselves."""
        return truth, truth.any(1, keepdim=True).float()

    def loss(self, answer: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
        """Squared error of the vector. A cosine has no gradient to speak of for a decoder that begins at 0."""
        return squared_error(answer, target, weight)

    def score(self) -> Score:
        """Sums of angles."""
        return Angles(self.keys)

    def picture(self, answer: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        """The vector's numbers as colours."""
        return self.show(F.normalize(answer, dim=0))

    def legend(self) -> dict[str, str]:
        """Some directions that surfaces face."""
        facing = {"left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, -1, 0), "down": (0, 1, 0), "the camera": (0, 0, -1)}
        return to_legend(
            [f"faces {name}" for name in facing], self.show(torch.tensor([*facing.values()]).float().T[:, None])
        )


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


@dataclass(frozen=True)
class SurfaceNormals(Modality):
    """The normals of a depth camera's pictures as a signal: 3 numbers a pixel, 0 where there is no normal."""

    field: ClassVar[str] = "depth"
    extensions: ClassVar[tuple[str, ...]] = Depth.extensions

    depth: Depth
    focal: float  # over the width of the picture
    window: int  # pixels to a side
    fit: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Three numbers for each pixel."""
        return (3, *self.depth.sides)

    def decode(self, payload: bytes) -> Float[Tensor, "3 height width"]:
        """The normals at the stored size, where neighbours are true neighbours."""
        return normals_of(self.depth.decode(payload), self.focal, self.window)

    def encode(self, signal: Float[Tensor, "3 height width"]) -> bytes:
        """Depth is what is stored."""
        raise NotImplementedError("normals are computed from depth and not stored")

    def adapt(self, signal: Float[Tensor, "3 height width"], window: CropBox) -> Float[Tensor, "3 _ _"]:
        """The window's part; in a mirrored picture, right is left."""
        part = self.depth.resize_crop(signal, window, nearest=True)
        return part * part.new_tensor([-1.0, 1.0, 1.0])[:, None, None] if window.flip else part

    def draw(self, generator: torch.Generator) -> Float[Tensor, "0"]:
        """Nothing is augmented."""
        return torch.empty(0)

    def augment(self, batch: Float[Tensor, "batch 3 _ _"], draws: Tensor) -> Float[Tensor, "batch 3 _ _"]:
        """The batch itself."""
        return batch

    def normalise(self, batch: Float[Tensor, "batch 3 _ _"]) -> Float[Tensor, "batch 3 _ _"]:
        """The batch itself."""
        return batch

    def picture(self, adapted: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
        """The vector's numbers as colours; no normal is black."""
        return torch.where(adapted.any(0), (adapted + 1) / 2, 0.0)

    def render(self, scene: Scene) -> Float[Tensor, "3 height width"]:
        """The normals of a synthetic scene."""
        return normals_of(self.depth.render(scene), self.focal, self.window)


def normals_of(depth: Float[Tensor, "1 height width"], focal: float, window: int) -> Float[Tensor, "3 height width"]:
    """Unit normals towards the camera: right, down, forward; 0 where there is none.

    There is none where the window shows more than a plane. Pixels without reading and outside the picture count as
    infinitely far, so that they end a plane.

    In the picture of a plane the inverse of the distance along the axis is linear: n . p = 1 with p = z (x, y, 1) gives
    1 / z = n . (x, y, 1), where x and y are pixels from the middle over the focal length. So a linear fit gives the
    normals of planes exactly. Pixels are square, and the camera's axis is in the middle.

    Args:
        depth: metres, 0 where there is no reading.
        focal: focal length over the width of the picture.
        window: side of the square in which the linear function is fitted, pixels; odd and at least 3.
    """
    height, width = depth.shape[1:]
    near = torch.where(depth > 0, 1 / depth.clamp(min=1e-9), 0.0).double()[None]
    reach = window // 2
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=depth.device)
    slope = (steps / steps.square().sum() / window).expand(window, window)
    kernels = torch.stack([slope, slope.T, torch.full_like(slope, 1 / window**2)])[:, None]
    across, down, middle = F.conv2d(near, kernels, padding=reach)[0]
    spread = F.conv2d(near.square(), kernels[2:], padding=reach)[0, 0] - middle.square()
    unexplained = spread - (across.square() + down.square()) * steps.square().mean()
    length = focal * width
    x, y = ((torch.arange(side, device=depth.device) + 0.5 - side / 2) / length for side in (width, height))
    across, down = across * length, down * length
    normal = -F.normalize(torch.stack([across, down, middle - across * x - down * y[:, None]]), dim=0)
    return torch.where(unexplained < (FLAT * middle).square(), normal, 0.0).float()
