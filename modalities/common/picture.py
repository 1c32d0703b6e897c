"""What modalities with height and width share: their size, crops of pictures, masks and colour maps."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from modalities import CropBox
from modalities.common.options import check_within

DEFAULT_SIZE = 64  # pixels a side where a config names no size
FITS = ("crop", "stretch")


class PictureSize:
    """Height and width as options: `size` for a square, or both; a base of every modality with pixels.

    An entry declares the three options itself, so that the catalogue lists them, and calls `check_size` in
    `__post_init__`. It names this base before the catalogue's interface.
    """

    size: int | None
    height: int | None
    width: int | None

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width, pixels."""
        if self.size is not None:
            return self.size, self.size
        assert self.height is not None and self.width is not None
        return self.height, self.width

    def check_size(self, *, least: int = 1) -> None:
        """Sets `size` to its default where nothing is given.

        Raises:
            ValueError: `size` is given beside `height` or `width`, only one of these is, or one is below `least`.
        """
        options = {"size": self.size, "height": self.height, "width": self.width}
        given = {name: value for name, value in options.items() if value is not None} or {"size": DEFAULT_SIZE}
        if [*given] not in (["size"], ["height", "width"]):
            told = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(f"give either size, for a square, or both height and width, got {told}")
        check_within(least, math.inf, **given)
        object.__setattr__(self, "size", given.get("size"))  # so that an exported model names the default too


class PictureView(PictureSize):
    """How a modality sees pictures: its size, and how crops are fitted to it; see `PictureSize`, whose rules hold."""

    fit: str

    def check_view(self) -> None:
        """Checks and completes the options; see `PictureSize.check_size`.

        Raises:
            ValueError: an option is out of its range.
        """
        self.check_size()
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")

    def resize_crop(
        self, signal: Float[Tensor, "channels height width"], window: CropBox, *, nearest: bool = False
    ) -> Float[Tensor, "channels {self.sides[0]} {self.sides[1]}"]:
        """The part of a picture in the crop box, resized to the view; bilinear with antialiasing unless `nearest`."""
        if self.fit == "crop":
            window = keep_proportions(window, (signal.shape[1], signal.shape[2]), self.sides)
        return resize_crop(signal, window, self.sides, nearest=nearest)


def keep_proportions(window: CropBox, picture: tuple[int, int], view: tuple[int, int]) -> CropBox:
    """The window on the largest region of a picture that has the view's width : height; itself where the two are equal.

    The window's `down` and `across` say where the region lies.

    Args:
        window: in fractions of the region.
        picture: height and width, pixels.
        view: height and width, pixels.
    """
    tall, wide = picture[0] * view[1], picture[1] * view[0]  # in proportion to the view
    height, width = min(1.0, wide / tall), min(1.0, tall / wide)  # of the region, as shares of the picture
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
) -> Float[Tensor, "channels {sides[0]} {sides[1]}"]:
    """The part of a picture that `window` shows, resized to `sides`; bilinear with antialiasing unless `nearest`.

    What the window shows from outside the picture is 0.

    Args:
        signal: the picture.
        window: in fractions of the picture.
        sides: height and width of the result, pixels.
        nearest: every pixel of the result is one of the picture's.
    """
    height, width = signal.shape[-2:]
    top, bottom = _interval(window.top, window.height, height)
    left, right = _interval(window.left, window.width, width)
    above, before = max(-top, 0), max(-left, 0)
    if above or before or bottom > height or right > width:
        signal = F.pad(signal, (before, max(right - width, 0), above, max(bottom - height, 0)))
    part = signal[None, :, top + above : bottom + above, left + before : right + before]
    if nearest:
        part = F.interpolate(part, sides, mode="nearest-exact")
    else:
        part = F.interpolate(part, sides, mode="bilinear", antialias=True, align_corners=False)
    return part[0].flip(-1) if window.flip else part[0]


def _interval(start: float, extent: float, pixels: int) -> tuple[int, int]:
    """The nearest whole pixels, at least one; all inside where the interval is."""
    last = round((start + extent) * pixels)
    first = min(round(start * pixels), max(last, pixels) - 1)
    return first, max(last, first + 1)


def spans(
    places: Float[Tensor, "*shape"], extents: Float[Tensor, "*shape"], length: int
) -> Bool[Tensor, "*shape {length}"]:
    """Marks one stretch in each row of `length`.

    Args:
        places: where it lies in the slack, 0 at the beginning, 1 at the end.
        extents: its fraction of the length.
        length: of a row.
    """
    positions = torch.arange(length, device=places.device)
    width = (extents * length).round()
    first = (places * (length - width)).round()
    return (positions >= first[..., None]) & (positions < (first + width)[..., None])


def colour_map(values: Float[Tensor, "height width"], name: str) -> Float[Tensor, "3 height width"]:
    """Numbers in [0, 1] in the colours of matplotlib's map `name`."""
    from matplotlib import colormaps  # a third of a second that no worker should wait for

    colours = colormaps[name](values.cpu().numpy())[..., :3]
    return torch.from_numpy(colours).permute(2, 0, 1).float()
