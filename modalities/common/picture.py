"""Code for modalities with height and width: size options, crops of pictures, masks and colour maps."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from modalities import CropBox
from modalities.common.options import check_within

DEFAULT_SIZE = 64  # side in pixels if a config has no size
FITS = ("crop", "stretch")
MODES = ("bilinear", "bicubic")


class PictureSize:
    """The options for height and width: `size` for a square, or both; a base of every modality with pixels.

    An entry declares the three options itself, so that the catalogue lists them, and calls `check_size` in
    `__post_init__`. This base must precede the catalogue's interface.
    """

    size: int | None
    height: int | None
    width: int | None

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if self.size is not None:
            return self.size, self.size
        assert self.height is not None and self.width is not None
        return self.height, self.width

    def check_size(self, *, least: int = 1) -> None:
        """Checks the options, and sets `size` to its default if none is given.

        Raises:
            ValueError: `size` is combined with `height` or `width`, one of these is missing, or one is below `least`.
        """
        options = {"size": self.size, "height": self.height, "width": self.width}
        given = {name: value for name, value in options.items() if value is not None} or {"size": DEFAULT_SIZE}
        if [*given] not in (["size"], ["height", "width"]):
            values = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"give either size, for a square, or both height and width, got {values}")
        check_within(least, math.inf, **given)
        object.__setattr__(self, "size", given.get("size"))  # so that an exported model records the default too


class PictureView(PictureSize):
    """The options of a view of pictures: its size, and how crops are fitted to it; see `PictureSize`."""

    nothing: ClassVar[float]
    fit: str

    def check_view(self) -> None:
        """Checks the options and sets defaults; see `PictureSize.check_size`.

        Raises:
            ValueError: an option is out of its range.
        """
        self.check_size()
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def resize_crop(
        self,
        signal: Float[Tensor, "channels height width"],
        window: CropBox,
        *,
        nearest: bool = False,
        mode: str = "bilinear",
    ) -> Float[Tensor, "channels {self.sides[0]} {self.sides[1]}"]:
        """The crop of a picture, resized to the view; by `mode` with antialiasing unless `nearest`."""
        if self.fit == "crop":
            window = keep_proportions(window, (signal.shape[1], signal.shape[2]), self.sides)
        return resize_crop(signal, window, self.sides, nearest=nearest, outside=self.nothing, mode=mode)


def keep_proportions(window: CropBox, picture: tuple[int, int], view: tuple[int, int]) -> CropBox:
    """The same crop of the picture's largest region with the view's aspect ratio; unchanged if the ratios are equal.

    The window's `down` and `across` give the position of the region.

    Args:
        window: in fractions of the region.
        picture: height and width in pixels.
        view: height and width in pixels.
    """
    tall, wide = picture[0] * view[1], picture[1] * view[0]  # relative to the view
    height, width = min(1.0, wide / tall), min(1.0, tall / wide)  # size of the region, as shares of the picture
    return replace(
        window,
        top=window.down * (1 - height) + height * window.top,
        left=window.across * (1 - width) + width * window.left,
        height=height * window.height,
        width=width * window.width,
    )


def resize_crop(
    signal: Float[Tensor, "channels height width"],
    window: CropBox,
    sides: tuple[int, int],
    *,
    nearest: bool = False,
    outside: float = 0.0,
    mode: str = "bilinear",
) -> Float[Tensor, "channels {sides[0]} {sides[1]}"]:
    """The crop of a picture, resized to `sides`; by `mode` with antialiasing unless `nearest`.

    Args:
        signal: the picture.
        window: in fractions of the picture.
        sides: height and width of the result in pixels.
        nearest: use the nearest pixel instead of interpolation.
        outside: value of the crop outside the picture.
        mode: one of `MODES`; bicubic values may lie outside the picture's range.
    """
    height, width = signal.shape[-2:]
    top, bottom = _interval(window.top, window.height, height)
    left, right = _interval(window.left, window.width, width)
    above, before = max(-top, 0), max(-left, 0)
    if above or before or bottom > height or right > width:
        signal = F.pad(signal, (before, max(right - width, 0), above, max(bottom - height, 0)), value=outside)
    part = signal[None, :, top + above : bottom + above, left + before : right + before]
    if nearest:
        part = F.interpolate(part, sides, mode="nearest-exact")
    else:
        part = F.interpolate(part, sides, mode=mode, antialias=True, align_corners=False)
    return part[0].flip(-1) if window.flip else part[0]


def _interval(start: float, extent: float, pixels: int) -> tuple[int, int]:
    """The interval in whole pixels, at least one; inside the picture if the interval is."""
    last = round((start + extent) * pixels)
    first = min(round(start * pixels), max(last, pixels) - 1)
    return first, max(last, first + 1)


def spans(
    places: Float[Tensor, "*shape"], extents: Float[Tensor, "*shape"], length: int
) -> Bool[Tensor, "*shape {length}"]:
    """A mask of one span in each row of `length`.

    Args:
        places: position of the span, from 0 (at the start) to 1 (at the end).
        extents: length of the span, as a fraction of the row.
        length: length of a row.
    """
    positions = torch.arange(length, device=places.device)
    width = (extents * length).round()
    first = (places * (length - width)).round()
    return (positions >= first[..., None]) & (positions < (first + width)[..., None])


def colour_map(values: Float[Tensor, "height width"], name: str) -> Float[Tensor, "3 height width"]:
    """Numbers in [0, 1] as colours of matplotlib's map `name`."""
    from matplotlib import colormaps  # the import takes 0.3 s, which workers need not wait for

    colours = colormaps[name](values.cpu().numpy())[..., :3]
    return torch.from_numpy(colours).permute(2, 0, 1).float()
