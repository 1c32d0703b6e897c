"""The inputs of exported graphs: what a sensor's driver gives, made into the samples of `Modality.adapt`."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from modalities import CropBox, Modality
from modalities.common.colour import LAB_AB, LAB_L, to_lab
from modalities.common.picture import keep_proportions, resize_crop

FAR = 1e30  # a number far outside of every range
NOT_FINITE = (math.nan, math.inf, -math.inf)


class Input(nn.Module, ABC):
    """The first part of a graph, from what a driver gives to adapted samples."""

    shape: tuple[int, ...]  # of one row
    dtype: torch.dtype = torch.float32
    unit: str
    range: tuple[float, float] | None  # the lowest and the highest number that the encoder tells apart
    sized: bool = False  # whether it can read pictures of another size than the model's
    gaps: str = ""  # the numbers that mean "no reading", in words
    extremes: tuple[float, ...]  # the numbers of which inputs for checks are made
    dither: float = 0.0  # amplitude of the noise on constant inputs for checks, which then lie within full scale

    @abstractmethod
    def forward(self, batch: Shaped[Tensor, "batch *shape"]) -> Float[Tensor, "batch *sample"]:
        """Adapted samples in physical units."""

    @abstractmethod
    def signal(self, row: Shaped[Tensor, "*shape"]) -> Float[Tensor, "..."]:
        """A row as the signal that `Modality.decode` would give; not a part of the graph."""

    @abstractmethod
    def row(self, signal: Float[Tensor, "..."]) -> Shaped[Tensor, "*shape"]:
        """A row with the numbers of a signal of any size; not a part of the graph."""


class Maps(Input):
    """Maps of one number a pixel, [batch, height, width], in the modality's unit."""

    sized = True
    rows: Tensor
    columns: Tensor

    def __init__(self, modality: Any, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.shape, self.nothing = size or modality.sides, modality.nothing
        self.resizes = self.shape != modality.sides
        for name, side, start, extent, pixels in _axes(modality, self.shape, ("rows", "columns")):
            places = torch.arange(side, dtype=torch.float32).expand(1, 2, side)
            nearest = resize_crop(places, CropBox(left=start, width=extent), (2, pixels), nearest=True)
            self.register_buffer(name, nearest[0, 0].long())
        if self.nothing == 0:
            self.unit, self.range, self.gaps = "m", (modality.min_m, modality.max_m), "0, negative, NaN or infinite"
        else:
            self.unit, self.range, self.gaps = modality.unit, modality.span, "NaN or infinite"
        self.extremes = (*self.range, sum(self.range) / 2, 0.0, -1.0, 1e-30, FAR, -FAR, *NOT_FINITE)

    def forward(self, batch: Float[Tensor, "batch height width"]) -> Float[Tensor, "batch 1 _ _"]:
        """The nearest number of each pixel."""
        if self.resizes:
            batch = batch.index_select(1, self.rows).index_select(2, self.columns)
        return torch.where(batch.isfinite(), batch, self.nothing)[:, None]

    def signal(self, row: Float[Tensor, "height width"]) -> Float[Tensor, "1 height width"]:
        """The map, with `nothing` for numbers that are not finite."""
        return torch.where(row.isfinite(), row, self.nothing)[None]

    def row(self, signal: Float[Tensor, "1 _ _"]) -> Float[Tensor, "{self.shape[0]} {self.shape[1]}"]:
        """The nearest numbers."""
        return resize_crop(signal, CropBox(), (self.shape[0], self.shape[1]), nearest=True)[0]


class Pictures(Input):
    """Colour pictures, [batch, height, width, 3], 8 bits."""

    dtype = torch.uint8
    sized = True
    unit, range = "sRGB, red first", (0, 255)
    extremes = (0, 1, 10, 127, 254, 255)
    down: Tensor
    across: Tensor

    def __init__(self, modality: Any, size: tuple[int, int] | None) -> None:
        super().__init__()
        sides = size or modality.sides
        self.shape, self.resizes, self.bits = (*sides, 3), sides != modality.sides, modality.bits
        for name, side, start, extent, pixels in _axes(modality, sides, ("down", "across")):
            lines = torch.eye(side)[:, None].expand(side, 2, side)  # torch resizes pictures of one line otherwise
            mode = getattr(modality, "interpolation", "bilinear")
            weights = resize_crop(lines, CropBox(left=start, width=extent), (2, pixels), mode=mode)
            self.register_buffer(name, weights[:, 0].T.contiguous())

    def forward(self, batch: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch _ _ _"]:
        """The channels of the modality, resized with antialiasing."""
        pictures = batch.permute(0, 3, 1, 2).float() / 255
        if self.resizes:
            pictures = (self.down @ (pictures @ self.across.T)).clamp(0, 1)
            if self.bits == 8:
                pictures = (pictures * 255).round() / 255
        return self.channels(pictures)

    def channels(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch _ height width"]:
        """The channels that the encoder sees."""
        return pictures

    def signal(self, row: UInt8[Tensor, "height width 3"]) -> Float[Tensor, "3 height width"]:
        """The picture in [0, 1]."""
        return row.permute(2, 0, 1).float().div(255)

    def row(self, signal: Float[Tensor, "3 _ _"]) -> UInt8[Tensor, "{self.shape[0]} {self.shape[1]} 3"]:
        """The nearest pixels."""
        nearest = resize_crop(signal, CropBox(), (self.shape[0], self.shape[1]), nearest=True)
        return (nearest.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)


class LightnessPictures(Pictures):
    """Colour pictures, of which the encoder sees L of CIE Lab."""

    def channels(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """L."""
        return to_lab(pictures)[:, LAB_L]


class ChromaPictures(Pictures):
    """Colour pictures, of which the encoder sees a and b of CIE Lab."""

    def channels(self, pictures: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 2 height width"]:
        """The a and b."""
        return to_lab(pictures)[:, LAB_AB]


class Sound(Input):
    """Sound of the view's length, [batch, samples], or [batch, 2, samples] for stereo.

    Samples beyond full scale are clipped. The spectrum is a convolution with sines and cosines, because few runtimes
    have the Fourier transform.
    """

    range = (-1, 1)
    gaps = "NaN or infinite: silence"
    dither = 1e-2  # of a pure constant, torch's own transform is off by 0.03 dB in bands that are next to silent
    extremes = (0.0, 1.0, -1.0, 0.5, 1e-4, 1e-30, FAR, -FAR, *NOT_FINITE)
    waves: Tensor
    bands: Tensor

    def __init__(self, modality: Any, size: tuple[int, int] | None) -> None:
        from modalities.audio import FLOOR, mel_spectrogram

        super().__init__()
        self.mono, self.floor, self.frames = modality.channels == 1, FLOOR, modality.shape[-1]
        self.shape = (modality.samples,) if self.mono else (2, modality.samples)
        self.unit = f"amplitude at {modality.rate_hz} Hz"
        mel = mel_spectrogram(modality)
        self.length, self.hop = mel.n_fft, mel.hop_length
        before = (mel.n_fft - mel.win_length) // 2  # torch.stft centres a window that is shorter than the transform
        window = F.pad(mel.spectrogram.window.double(), (before, mel.n_fft - mel.win_length - before))
        turns = torch.arange(mel.n_fft // 2 + 1)[:, None] * torch.arange(mel.n_fft) % mel.n_fft / mel.n_fft
        angles = 2 * math.pi * turns.double()
        waves = torch.cat([angles.cos(), angles.sin()]) * window
        self.register_buffer("waves", waves.float()[:, None])
        self.register_buffer("bands", mel.mel_scale.fb.T.contiguous())

    def forward(self, batch: Float[Tensor, "batch *samples"]) -> Float[Tensor, "batch channels mels frames"]:
        """Log-mel spectrograms in dB."""
        sound = torch.where(batch.isfinite(), batch, 0.0).clamp(-1, 1).reshape(-1, 1, self.shape[-1])
        padded = F.pad(sound, (self.length // 2, self.length // 2), mode="reflect")
        real, imaginary = F.conv1d(padded, self.waves, stride=self.hop)[..., : self.frames].chunk(2, dim=1)
        power = self.bands @ (real.square() + imaginary.square())
        return 10 * power.clamp(min=self.floor).log10().unflatten(0, (-1, 1 if self.mono else 2))

    def signal(self, row: Float[Tensor, "*samples"]) -> Float[Tensor, "channels samples"]:
        """The sound, clipped."""
        return torch.where(row.isfinite(), row, 0.0).clamp(-1, 1).reshape(-1, self.shape[-1])

    def row(self, signal: Float[Tensor, "channels _"]) -> Float[Tensor, "..."]:
        """The beginning of the sound, with silence behind it if it is shorter."""
        piece = F.pad(signal, (0, max(self.shape[-1] - signal.shape[1], 0)))[:, : self.shape[-1]]
        return piece.mean(0) if self.mono else piece.expand(2, -1)


class Samples(Input):
    """Adapted samples, for modalities of plug-ins."""

    unit, range = "", None
    extremes = (0.0, 1.0, -1.0)

    def __init__(self, modality: Modality, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.modality, self.shape = modality, modality.shape

    def forward(self, batch: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """The same."""
        return batch

    def signal(self, row: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The same."""
        return row

    def row(self, signal: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The adapted signal."""
        return self.modality.adapt(signal, CropBox())


INPUTS: dict[str, type[Any]] = {
    "depth": Maps,
    "thermal": Maps,
    "raster": Maps,
    "rgb": Pictures,
    "luminance": LightnessPictures,
    "chrominance": ChromaPictures,
    "audio": Sound,
}  # by modality; `Samples` for others


def _axes(modality: Any, size: tuple[int, ...], names: tuple[str, str]) -> list[tuple[str, int, float, float, int]]:
    """Of each axis: its name, pixels of the picture, start and extent of the crop as fractions, pixels of the view."""
    window = CropBox()
    if modality.fit == "crop":
        window = keep_proportions(window, (size[0], size[1]), modality.sides)
    starts, extents = (window.top, window.left), (window.height, window.width)
    return [*zip(names, size, starts, extents, modality.sides, strict=True)]
