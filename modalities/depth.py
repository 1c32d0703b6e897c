"""Depth maps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from modalities import Modality
from modalities.codecs.depth import decode_depth, doubt_metres, encode_depth
from modalities.codecs.readings import EXTENSIONS
from modalities.common.noise import addressed_noise, rectangles
from modalities.common.numbers import MapView
from modalities.common.options import check_within
from modalities.common.picture import colour_map
from modalities.common.ranges import bounds_of_half
from modalities.synthetic.render import render_distance
from modalities.synthetic.scene import Scene


@dataclass(frozen=True)
class Depth(MapView, Modality):
    """Distance along the optical axis in metres, 0 where there is no reading, from PNG, TIFF, EXR, PFM, .npy, .npz.

    Distances are never guessed and never mixed: 16 bits stay 16 bits, and resizing takes the nearest pixel.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "depth"
    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS
    stored: ClassVar[tuple[str, ...]] = ("scale_m", "invalid")

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    scale_m: float = 0.001  # metres that a stored 1 means: 0.001 for millimetres
    invalid: float = 0.0  # stored value of "no reading", beside 0, negative and non-finite ones
    min_m: float = 0.3  # what the encoder sees as nearest, metres; nearer counts as this
    max_m: float = 10.0  # what the encoder sees as farthest, metres; farther counts as this
    scale: Literal["log", "linear", "inverse"] = "log"  # equal steps the encoder sees: ratios, metres or 1/m
    drift: float = 0.02  # greatest error common to all of a map, as a fraction
    noise: float = 0.002  # standard deviation of a reading at 1 m, metres; grows with the distance squared
    holes: int = 2  # most rectangles without reading that augmentation cuts
    hole_side: float = 0.25  # greatest side of a hole, as a fraction of the map's

    def __post_init__(self) -> None:
        self.check_view()
        check_within(1e-9, math.inf, scale_m=self.scale_m)
        check_within(0, 1, hole_side=self.hole_side)
        check_within(0, 0.5, drift=self.drift, noise=self.noise)
        check_within(0, 64, holes=self.holes)
        if not 0 < self.min_m < self.max_m < math.inf:
            raise ValueError(f"0 < min_m < max_m < inf is needed, got {self.min_m} and {self.max_m}")
        if self.scale not in ("log", "linear", "inverse"):
            raise ValueError(f"scale must be log, linear or inverse, got {self.scale!r}")

    def decode(self, payload: bytes) -> Float[Tensor, "1 height width"]:
        """Metres, 0 where there is no reading; see `decode_depth`."""
        return decode_depth(payload, scale_m=self.scale_m, invalid=self.invalid)

    def doubts(self, signal: Float[Tensor, "1 height width"]) -> str:
        """Why these can hardly be metres; empty if they can."""
        return doubt_metres(signal)

    def encode(self, signal: Float[Tensor, "1 height width"]) -> bytes:
        """A 16-bit PNG in steps of `scale_m`; see `encode_depth`."""
        return encode_depth(signal, scale_m=self.scale_m, invalid=self.invalid)

    def draw(self, generator: torch.Generator) -> Float[Tensor, " draws"]:
        """Uniform numbers: two that seed the noise, the drift, and four for each hole."""
        return torch.rand(3 + 4 * self.holes, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch 1 height width"], draws: Float[Tensor, "batch draws"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The batch with drift, noise and holes; a pixel without reading stays so, a reading stays above 0.

        Noise grows as a structured-light camera's does (Khoshelham & Elberink 2012,
        https://doi.org/10.3390/s120201437, eq. 11).
        """
        drifted = batch * (1 + (2 * draws[:, 2, None, None, None] - 1) * self.drift)
        noisy = drifted + self.noise * drifted**2 * addressed_noise(draws[:, :2], batch.shape[-2], batch.shape[-1])
        noisy = torch.maximum(noisy, drifted / 2)  # far beyond what a camera measures the formula goes below 0
        cut = rectangles(draws[:, 3:], self.holes, self.hole_side, (batch.shape[-2], batch.shape[-1]))
        return torch.where(cut, 0.0, noisy)

    def normalise(self, batch: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """Nearness, 1 at `min_m` and 0 at `max_m` and without reading; less 0.5, over 0.25."""
        return (self._nearness(batch) - 0.5) / 0.25

    def picture(self, adapted: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """Near red, far blue, no reading black."""
        return torch.where(adapted > 0, colour_map(self._nearness(adapted)[0], "turbo").to(adapted), 0.0)

    def render(self, scene: Scene) -> Float[Tensor, "1 height width"]:
        """The distances that a depth camera measures of the scene."""
        return render_distance(scene)

    def refuse_unseen(self, statistics: Mapping[str, float]) -> None:
        """Refuses distances of which at least half would be seen as one, nearest or farthest; see `bounds_of_half`.

        Args:
            statistics: mean, std, min and max of all readings, metres; absent where there is none.

        Raises:
            ValueError: so many certainly lie outside `min_m` to `max_m`.
        """
        if "mean" not in statistics:
            return
        mean, low, high = (statistics[name] for name in ("mean", "min", "max"))
        least, most = bounds_of_half(statistics)
        if most < self.min_m:
            where = f"below {most:g} m, so below min_m={self.min_m:g}"
        elif least > self.max_m:
            where = f"above {least:g} m, so above max_m={self.max_m:g}"
        else:
            return
        raise ValueError(
            f"at least half of the distances lie {where}, and would be seen as one: their mean is {mean:g} m, from "
            f"{low:g} to {high:g} m with scale_m={self.scale_m:g}; pack them with another scale_m, or set the view's "
            "min_m and max_m"
        )

    def _nearness(self, metres: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        clipped = metres.clamp(self.min_m, self.max_m)
        if self.scale == "log":
            near = torch.log(self.max_m / clipped) / math.log(self.max_m / self.min_m)
        elif self.scale == "inverse":
            near = (1 / clipped - 1 / self.max_m) / (1 / self.min_m - 1 / self.max_m)
        else:
            near = (self.max_m - clipped) / (self.max_m - self.min_m)
        return torch.where(metres > 0, near, 0.0)
