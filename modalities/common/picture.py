"""What modalities with height and width share: crops of pictures, masks and colour maps."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from modalities import Window


def look(
    signal: Float[Tensor, "channels height width"], window: Window, size: int, *, nearest: bool = False
) -> Float[Tensor, "channels {size} {size}"]:
    """The part of a picture that `window` shows, resized to a square; bilinear with antialiasing unless `nearest`.

    What the window shows from outside the picture is 0.
    """
    height, width = signal.shape[-2:]
    top, bottom = _interval(window.top, window.height, height)
    left, right = _interval(window.left, window.width, width)
    above, before = max(-top, 0), max(-left, 0)
    if above or before or bottom > height or right > width:
        signal = F.pad(signal, (before, max(right - width, 0), above, max(bottom - height, 0)))
    part = signal[None, :, top + above : bottom + above, left + before : right + before]
    if nearest:
        part = F.interpolate(part, (size, size), mode="nearest-exact")
    else:
        part = F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)
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
