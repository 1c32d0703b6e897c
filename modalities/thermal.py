"""Thermal pictures: temperatures, or a thermal camera's raw counts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from modalities import DecodeError, Modality
from modalities.codecs.raster import write_pixels
from modalities.codecs.readings import EXTENSIONS, in_units, read_numbers
from modalities.common.noise import addressed_noise
from modalities.common.numbers import RangeView, refuse_outside
from modalities.common.options import check_within
from modalities.synthetic.render import render_colour
from modalities.synthetic.scene import Scene

PREVIEW = (
    "8 bits or colours make a preview whose scale changes from frame to frame; export the camera's radiometric 16 bits"
)
LARGEST = 65535  # of 16 bits
PLAUSIBLE_K = (150.0, 2000.0)  # a picture whose median lies outside was stored with another scale
ROOM_K = (270.0, 320.0)  # the range of a view of temperatures that has no low and high


@dataclass(frozen=True)
class Thermal(RangeView, Modality):
    """Temperatures in kelvin or raw counts, from 16-bit PNG or TIFF, or from files of floating numbers.

    NaN is "no reading", as it is in the file, or where the file has infinity or the stored number `invalid`. Numbers
    are never mixed: resizing takes the nearest pixel. The encoder sees equal steps from `low` to `high`.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "thermal"
    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS
    stored: ClassVar[tuple[str, ...]] = ("scale_k", "offset_k", "invalid")
    nothing: ClassVar[float] = math.nan
    colours: ClassVar[str] = "inferno"

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    scale_k: float | None = 0.01  # kelvin that a stored 1 means: 0.01 for kelvin x 100; null: raw counts
    offset_k: float = 0.0  # temperature that a stored 0 means, kelvin: 273.15 for degrees Celsius; 0 for raw counts
    invalid: float | None = 0.0  # stored number of "no reading", beside NaN and infinity; null: none
    # what the encoder sees as coldest, kelvin or counts; colder counts as this, and so does "no reading". null: 270 K;
    # raw counts need a number
    low: float | None = None
    high: float | None = None  # what the encoder sees as hottest; hotter counts as this. null: 320 K, as for low
    drift: float = 0.02  # greatest error common to a whole picture, as a fraction of the range from low to high
    columns: float = 0.002  # standard deviation of an error common to a column, of non-uniform detectors; as drift
    noise: float = 0.002  # standard deviation of a reading, as a fraction of the range from low to high

    def __post_init__(self) -> None:
        self.check_view()
        if self.scale_k is not None:
            check_within(1e-9, 1e6, scale_k=self.scale_k)
        check_within(-1e6, 1e6, offset_k=self.offset_k)
        if self.scale_k is None and self.offset_k:
            raise ValueError(f"offset_k must be 0 for raw counts (scale_k: null), got {self.offset_k}")
        if self.invalid is not None and not math.isfinite(self.invalid):
            raise ValueError(f"invalid must be finite or null, got {self.invalid}: NaN and infinity are never readings")
        low, high = self.span
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"low < high is needed, both finite, got {low} and {high}")
        check_within(0, 0.5, drift=self.drift, columns=self.columns, noise=self.noise)

    @property
    def span(self) -> tuple[float, float]:
        """The ends of the range; all 16 bits of raw counts without `low` or `high`, which `refuse_unseen` refuses."""
        low, high = ROOM_K if self.scale_k is not None else (0.0, float(LARGEST))
        return low if self.low is None else self.low, high if self.high is None else self.high

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return "counts" if self.scale_k is None else "K"

    def decode(self, payload: bytes) -> Float[Tensor, "1 height width"]:
        """Kelvin or counts, NaN where there is no reading.

        Raises:
            DecodeError: see `read_numbers`; or its median is no plausible temperature.
        """
        stored = read_numbers(payload, what="a thermal picture", preview=PREVIEW)
        if stored.dtype == np.uint8:
            raise DecodeError(f"a thermal picture must have 16 bits or floating numbers, got 8 bits: {PREVIEW}")
        values = in_units(stored, self._scale, self.offset_k, self.invalid)
        if doubt := self.doubts(values):
            raise DecodeError(
                f"{doubt} with scale_k={self.scale_k:g} and offset_k={self.offset_k:g}; does the file store kelvin x "
                "100 (scale_k=0.01), degrees Celsius (scale_k=1, offset_k=273.15) or raw counts (scale_k: null)?"
            )
        return values

    def doubts(self, signal: Float[Tensor, "1 height width"]) -> str:
        """Why these can hardly be kelvin; empty if they can, and for raw counts."""
        readings, (low, high) = signal[~signal.isnan()].numpy(), PLAUSIBLE_K
        median = float(np.median(readings)) if self.scale_k is not None and readings.size else low
        if low <= median <= high:
            return ""
        return f"the median temperature must be from {low:g} to {high:g} K, got {median:g} K"

    def encode(self, signal: Float[Tensor, "1 height width"]) -> bytes:
        """A 16-bit PNG in steps of `scale_k`; "no reading" is written as `invalid`.

        Raises:
            ValueError: a reading does not fit 16 bits or would be stored as `invalid`, or there is no `invalid` for
                what is no reading.
        """
        stored = ((signal[0].double() - self.offset_k) / self._scale).round()
        missing = stored.isnan()
        if missing.any() and (self.invalid is None or not 0 <= self.invalid <= LARGEST):
            raise ValueError(f"a picture that lacks readings needs an invalid from 0 to {LARGEST}, got {self.invalid}")
        lost = ~missing & ~((stored >= 0) & (stored <= LARGEST) & (stored != self.invalid))
        if lost.any():
            raise ValueError(
                f"a reading must be stored from 0 to {LARGEST} and not as invalid={self.invalid}, got "
                f"{signal[0][lost][0].item():g} {self.unit}; use another scale_k, offset_k or invalid"
            )
        return write_pixels(stored.nan_to_num(self.invalid).numpy().astype(np.uint16), "PNG")

    def draw(self, generator: torch.Generator) -> Float[Tensor, "5"]:
        """Five uniform numbers: two that seed the noise, two that seed the columns, and the drift."""
        return torch.rand(5, generator=generator)

    def augment(
        self, batch: Float[Tensor, "batch 1 height width"], draws: Float[Tensor, "batch 5"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The batch with drift, errors of columns and noise; a pixel without reading stays so.

        The columns of an uncooled detector have amplifiers of their own, whose offsets remain between two corrections.
        """
        height, width = batch.shape[-2:]
        low, high = self.span
        error = (2 * draws[:, 4, None, None, None] - 1) * self.drift
        error = error + self.columns * addressed_noise(draws[:, 2:4], 1, width)
        error = error + self.noise * addressed_noise(draws[:, :2], height, width)
        return batch + (high - low) * error

    def render(self, scene: Scene) -> Float[Tensor, "1 height width"]:
        """The temperatures of a synthetic scene, from 280 to 310 K: bright surfaces are warm."""
        return 280 + 30 * render_colour(scene).mean(0, keepdim=True)

    def refuse_unseen(self, statistics: Mapping[str, float]) -> None:
        """Refuses raw counts without a range, and readings of which the encoder would see hardly anything.

        Args:
            statistics: mean, std, min and max of all readings; absent where there is none.

        Raises:
            ValueError: they are such; see `refuse_outside`.
        """
        if self.scale_k is None and (self.low is None or self.high is None):
            known = "max" in statistics
            readings = f"; the readings are from {statistics['min']:g} to {statistics['max']:g}" if known else ""
            raise ValueError(f"raw counts (scale_k: null) need the view's low and high{readings}")
        refuse_outside(statistics, self.span, self.unit, "pack them with another scale_k or offset_k")

    def show_all(self, statistics: Mapping[str, float]) -> Modality:
        """A copy with the range of the statistics; this view where they have none."""
        low, high = (statistics.get(name, 0.0) for name in ("min", "max"))
        return replace(self, low=low, high=high) if low < high else self

    @property
    def _scale(self) -> float:
        return 1.0 if self.scale_k is None else self.scale_k
