"""Depth maps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from modalities import CropBox, DecodeError, Modality
from modalities.codecs.arrays import read_array
from modalities.codecs.raster import (
    JPEG,
    MAX_PIXELS,
    NPY,
    PNG,
    colour_map,
    describe,
    read_pixels,
    resize_crop,
    spans,
    write_pixels,
)
from modalities.common.options import check_within
from modalities.common.random import uniform_bits
from modalities.synthetic.render import render_distance
from modalities.synthetic.scene import Scene

LARGEST = 65535  # of 16 bits
PLAUSIBLE_M = (0.005, 1000.0)  # a map whose median lies outside was stored with another scale


@dataclass(frozen=True)
class Depth(Modality):
    """Distance along the optical axis in metres, 0 where there is no reading, from 16-bit PNG or .npy.

    Distances are never guessed and never mixed: 16 bits stay 16 bits, and resizing takes the nearest pixel.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "depth"
    extensions: ClassVar[tuple[str, ...]] = ("png", "npy")
    stored: ClassVar[tuple[str, ...]] = ("scale_m", "invalid")

    size: int = 64  # side of an adapted map, pixels
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
        check_within(1, math.inf, size=self.size)
        check_within(1e-9, math.inf, scale_m=self.scale_m)
        check_within(0, 1, hole_side=self.hole_side)
        check_within(0, 0.5, drift=self.drift, noise=self.noise)
        check_within(0, 64, holes=self.holes)
        if not 0 < self.min_m < self.max_m < math.inf:
            raise ValueError(f"0 < min_m < max_m < inf is needed, got {self.min_m} and {self.max_m}")
        if self.scale not in ("log", "linear", "inverse"):
            raise ValueError(f"scale must be log, linear or inverse, got {self.scale!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """One distance for each pixel of a square."""
        return (1, self.size, self.size)

    def decode(self, payload: bytes) -> Float[Tensor, "1 height width"]:
        """Metres, 0 where there is no reading.

        Raises:
            DecodeError: it is neither a 16-bit single-channel PNG nor a .npy of one number a pixel, is damaged, has too
                many pixels, or its median is no plausible distance under `scale_m`.
        """
        stored = _read_npy(payload) if payload.startswith(NPY) else _read_png(payload)
        with np.errstate(over="ignore", invalid="ignore"):  # infinity and every kind of NaN are no reading either
            marked = torch.from_numpy(_is_marked(stored, self.invalid))
            metres = torch.from_numpy(stored.astype(np.float64, copy=False)).mul_(self.scale_m).float()
        metres = torch.where(torch.isfinite(metres) & ~marked & (metres > 0), metres, 0.0)
        self._check_plausible(metres)
        return metres

    def encode(self, signal: Float[Tensor, "1 height width"]) -> bytes:
        """A 16-bit PNG in steps of `scale_m`; "no reading" is written as 0.

        Raises:
            ValueError: a distance does not fit 16 bits, or would read as "no reading".
        """
        value = (signal.double() / self.scale_m).round()
        lost = (signal != 0) & (~(value > 0) | value.isinf() | (value == self.invalid))  # NaN is not above 0 either
        if lost.any():
            raise ValueError(
                f"a distance must be finite, stored above 0 and not as invalid={self.invalid:g}, "
                f"got {signal[lost][0].item():g} m with scale_m={self.scale_m:g}; use a smaller scale_m "
                f"or another invalid, and 0 for no reading"
            )
        if value.max() > LARGEST:
            largest_m = signal.max().item()
            raise ValueError(
                f"distances must fit {LARGEST} steps of scale_m={self.scale_m:g}, got {largest_m:g} m; "
                f"scale_m={10 ** math.ceil(math.log10(largest_m / LARGEST)):g} would fit"
            )
        return write_pixels(value[0].numpy().astype(np.uint16), "PNG")

    def adapt(
        self, signal: Float[Tensor, "1 height width"], window: CropBox
    ) -> Float[Tensor, "1 {self.size} {self.size}"]:
        """The window's part of the map; every pixel is one of the stored ones."""
        return resize_crop(signal, window, self.size, nearest=True)

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
        noisy = drifted + self.noise * drifted**2 * _addressed_noise(draws[:, :2], batch.shape[-2], batch.shape[-1])
        noisy = torch.maximum(noisy, drifted / 2)  # far beyond what a camera measures the formula goes below 0
        return torch.where(self._holes(batch, draws[:, 3:]), 0.0, noisy)

    def normalise(self, batch: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """Nearness, 1 at `min_m` and 0 at `max_m` and without reading; less 0.5, over 0.25."""
        return (self._nearness(batch) - 0.5) / 0.25

    def picture(self, adapted: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """Near red, far blue, no reading black."""
        return torch.where(adapted > 0, colour_map(self._nearness(adapted)[0], "turbo").to(adapted), 0.0)

    def render(self, scene: Scene) -> Float[Tensor, "1 height width"]:
        """What a depth camera measures of the scene."""
        return render_distance(scene)

    def refuse_unseen(self, statistics: Mapping[str, float]) -> None:
        """Refuses distances of which at least half would be seen as one, nearest or farthest.

        No more than half of any numbers lie below their mean less its standard deviation, and no more than half above
        their sum (Cantelli's inequality), so that a tail, such as a far sky, is not taken for the bulk.

        Args:
            statistics: mean, std, min and max of all readings, metres; absent where there is none.

        Raises:
            ValueError: so many certainly lie outside `min_m` to `max_m`.
        """
        if "mean" not in statistics:
            return
        mean, std, low, high = (statistics[name] for name in ("mean", "std", "min", "max"))
        least, most = max(low, mean - std), min(high, mean + std)
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

    def _check_plausible(self, metres: Float[Tensor, "1 height width"]) -> None:
        valid = torch.from_numpy(metres.numpy()[metres.numpy() > 0])  # torch would take 24 bytes a pixel to index
        if not len(valid):
            return
        median = valid[:: 1 + len(valid) // 4096].median().item()  # a few thousand tell the order of magnitude
        low, high = PLAUSIBLE_M
        if not low <= median <= high:
            hint = "millimetres (scale_m=0.001)" if median > high else "metres (scale_m=1)"
            raise DecodeError(
                f"the median distance must be from {low} to {high:g} m, got {median:g} m with "
                f"scale_m={self.scale_m:g}; does the file store {hint}?"
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

    def _holes(
        self, batch: Float[Tensor, "batch 1 height width"], draws: Float[Tensor, "batch numbers"]
    ) -> Bool[Tensor, "batch 1 height width"]:
        top, left, tall, wide = draws.unflatten(1, (self.holes, 4)).unbind(-1)
        rows = spans(top, tall * self.hole_side, batch.shape[-2])
        columns = spans(left, wide * self.hole_side, batch.shape[-1])
        return (rows[..., None] & columns[..., None, :]).any(1, keepdim=True)


def stored_readings(payload: bytes, invalid: float) -> Shaped[np.ndarray, " readings"]:
    """The numbers of a file as they are stored, whatever their unit, less those that mean "no reading".

    Raises:
        DecodeError: see `Depth.decode`.
    """
    stored = _read_npy(payload) if payload.startswith(NPY) else _read_png(payload)
    return stored[np.isfinite(stored) & (stored > 0) & ~_is_marked(stored, invalid)]


def _is_marked(stored: Shaped[np.ndarray, "*shape"], invalid: float) -> Bool[np.ndarray, "*shape"]:
    # 99.9 is not the number nearest to it that 32 bits can hold, so floats are compared as they are stored
    return np.equal(stored, stored.dtype.type(invalid) if stored.dtype.kind == "f" else invalid)


def _addressed_noise(
    draws: Float[Tensor, "batch 2"], height: int, width: int
) -> Float[Tensor, "batch 1 {height} {width}"]:
    """Noise of variance 1 that a pixel's position and its sample's draws decide, equal on every device.

    The sum of four uniform numbers (Irwin-Hall): near normal, never beyond 3.5, and without a logarithm or a cosine,
    whose last bits differ between devices and positions in memory.
    """
    first, second = (draws * 2**24).long().unbind(1)  # torch.rand gives multiples of 2**-24
    pixels = torch.arange(height * width, device=draws.device).view(height, width)
    bits = uniform_bits(0, first[:, None, None, None], second[:, None, None, None], pixels)
    fields = 0x1FFF << 26 | 0x1FFF  # two of the four numbers of 13 bits
    sums = (bits & fields).add_((bits >> 13).bitwise_and_(fields))
    total = (sums & 0x3FFF).add_(sums.bitwise_right_shift_(26))
    return total.float().sub_(2 * 0x1FFF).mul_(math.sqrt(3) / 0x2000)


def _read_png(payload: bytes) -> Shaped[np.ndarray, "1 height width"]:
    got = describe(payload)
    if got == "PNG (16-bit grey)":
        return read_pixels(payload)[None]
    why = ": 8 bits or colours cannot hold metres, so this is a preview" if payload.startswith((PNG, JPEG)) else ""
    raise DecodeError(f"depth must be a 16-bit single-channel PNG or .npy, got {got}{why}")


def _read_npy(payload: bytes) -> Shaped[np.ndarray, "1 height width"]:
    try:
        array = read_array(payload, MAX_PIXELS)
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError(f".npy array of {len(payload)} bytes is damaged or cut short: {error}") from error
    if array.ndim == 3 and array.shape[0] != 1 == array.shape[2]:  # [height, width, 1]
        array = array.transpose(2, 0, 1)
    plane = array.ndim == 2 or (array.ndim == 3 and len(array) == 1)
    if array.dtype.kind not in "iuf" or not plane or not array.size:
        raise DecodeError(
            f"depth must be an integer or float array [height, width], got {array.dtype} {list(array.shape)}"
        )
    return array.reshape(1, *array.shape[-2:])
