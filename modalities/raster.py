"""Maps of numbers that are not distances: elevation, thickness, intensity, differences of temperature."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from modalities import Modality
from modalities.codecs.readings import EXTENSIONS, in_units, is_marked, read_numbers
from modalities.common.noise import addressed_noise, rectangles
from modalities.common.numbers import RangeView, refuse_outside
from modalities.common.options import check_within
from modalities.synthetic.render import render_relief
from modalities.synthetic.scene import Scene

PREVIEW = "8 bits or colours make a preview; for grey pictures there is the modality luminance"


@dataclass(frozen=True)
class Raster(RangeView, Modality):
    """One number a pixel in a unit of your choice, negative ones included, from PNG, TIFF, EXR, PFM, .npy or .npz.

    NaN is "no reading", as it is in the file, or where the file has infinity or the stored number `invalid`. Numbers
    are never mixed: resizing takes the nearest pixel. The encoder sees equal steps from `low` to `high`.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "raster"
    extensions: ClassVar[tuple[str, ...]] = ("npy", *(end for end in EXTENSIONS if end != "npy"))
    stored: ClassVar[tuple[str, ...]] = ("unit", "scale", "offset", "invalid")
    nothing: ClassVar[float] = math.nan
    colours: ClassVar[str] = "viridis"

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    unit: str = ""  # name of the unit for messages and reports: "m", "mm", "K"
    scale: float = 1.0  # units that a stored 1 means; the number is stored * scale + offset
    offset: float = 0.0  # number that a stored 0 means, units
    invalid: float | None = None  # stored number of "no reading", beside NaN and infinity; null: none
    low: float = 0.0  # what the encoder sees as least, units; lower counts as this, and so does "no reading"
    high: float = 1.0  # what the encoder sees as greatest, units; higher counts as this
    shift: float = 0.0  # augmentation: greatest error common to all of a map, units
    noise: float = 0.0  # augmentation: standard deviation of a reading, units
    holes: int = 0  # augmentation: number of rectangles without reading that it cuts
    hole_side: float = 0.25  # augmentation: greatest side of a hole, as a fraction of the map's

    def __post_init__(self) -> None:
        self.check_view()
        if not math.isfinite(self.scale) or self.scale == 0:
            raise ValueError(f"scale must be finite and not 0, got {self.scale}")
        if not math.isfinite(self.offset):
            raise ValueError(f"offset must be finite, got {self.offset}")
        if self.invalid is not None and not math.isfinite(self.invalid):
            raise ValueError(f"invalid must be finite or null, got {self.invalid}: NaN and infinity are never readings")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low < high is needed, both finite, got {self.low} and {self.high}")
        check_within(0, self.high - self.low, shift=self.shift, noise=self.noise)
        check_within(0, 64, holes=self.holes)
        check_within(0, 1, hole_side=self.hole_side)

    @property
    def span(self) -> tuple[float, float]:
        """`low` and `high`."""
        return self.low, self.high

    def decode(self, payload: bytes) -> Float[Tensor, "1 height width"]:
        """Numbers in `unit`, NaN where there is no reading.

        Raises:
            DecodeError: see `read_numbers`.
        """
        stored = read_numbers(payload, what="a raster", preview=PREVIEW)
        return in_units(stored, self.scale, self.offset, self.invalid)

    def encode(self, signal: Float[Tensor, "1 height width"]) -> bytes:
        """A .npy file of 32-bit floats, NaN where there is no reading.

        Raises:
            ValueError: a reading would be stored as `invalid`.
        """
        stored = ((signal[0].double() - self.offset) / self.scale).float().numpy()
        if self.invalid is not None and is_marked(stored, self.invalid).any():
            raise ValueError(f"a reading must not be stored as invalid={self.invalid:g}, got "
                             f"{self.invalid * self.scale + self.offset:g}; use another invalid")  # fmt: skip
        with io.BytesIO() as file:
            np.save(file, stored)
            return file.getvalue()

    def draw(self, generator: torch.Generator) -> Float[Tensor, " draws"]:
        """Uniform numbers: two that seed the noise, the shift, and four for each hole."""
        return torch.rand(3 + 4 * self.holes, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch 1 height width"], draws: Float[Tensor, "batch draws"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The batch with shift, noise and holes; a pixel without reading stays so."""
        height, width = batch.shape[-2:]
        shifted = batch + (2 * draws[:, 2, None, None, None] - 1) * self.shift
        noisy = shifted + self.noise * addressed_noise(draws[:, :2], height, width)
        return torch.where(rectangles(draws[:, 3:], self.holes, self.hole_side, (height, width)), math.nan, noisy)

    def render(self, scene: Scene) -> Float[Tensor, "1 height width"]:
        """The relief of the scene: 0 at the wall, 1 at the camera."""
        return render_relief(scene)

    def refuse_unseen(self, statistics: Mapping[str, float]) -> None:
        """Refuses readings of which the encoder would see hardly anything; see `refuse_outside`."""
        refuse_outside(statistics, self.span, self.unit, "pack them with another scale")

    def show_all(self, statistics: Mapping[str, float]) -> Modality:
        """A copy with the range of the statistics; this view where they have none."""
        low, high = (statistics.get(name, 0.0) for name in ("min", "max"))
        return replace(self, low=low, high=high, shift=0.0, noise=0.0) if low < high else self
