"""How the frames of a LeRobot feature are stored: colours, depth as codes or numbers, vectors."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image, UnidentifiedImageError

from crossmodal.sources import SourceError
from crossmodal.sources.recordings.picture_track import PictureTrack
from crossmodal.sources.recordings.pixels import is_deep_grey, kind_of
from crossmodal.sources.recordings.stream import Stream
from modalities.codecs.raster import JPEG, PNG

INFO = "meta/info.json"
CODES = 4096  # of a depth map in a video: 12 bits
UNITS = {"mm": 0.001, "m": 1.0}  # metres


@dataclass(frozen=True)
class Reader:
    """How the frames of a feature are read."""

    stream: Stream  # without the number and rate of an episode's frames
    content: Callable[[Any], Any] = lambda stored: stored  # what is stored -> what a frame holds
    codes: bool = False  # the first component of a video's pixels is wanted as it is stored

    @property
    def refusal(self) -> str:
        """Why the feature cannot be read; empty if it can."""
        return self.stream.source if self.stream.kind == "other" else ""


def plain_reader(name: str, feature: dict[str, Any]) -> Reader:
    """The stream of a feature that is no picture: vectors of numbers."""
    encoding = f"{feature.get('dtype')} {feature.get('shape')}"
    texts = feature.get("dtype") == "string"
    source = f"{name} holds texts, which are not read; take another feature" if texts else ""
    return Reader(Stream(name, "other", encoding, 0, source=source), np.atleast_1d)


def video_reader(name: str, feature: dict[str, Any], track: PictureTrack) -> Reader:
    """The stream of a feature in a video: colours, or a depth map whose scale must be stated."""
    facts, seen = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}, track.facts
    stream = Stream(name, kind_of(seen.pixels), f"{seen.codec} {seen.pixels}", 0, seen.height, seen.width)
    if not _is_depth(facts) and not is_deep_grey(seen.pixels):
        return Reader(stream)
    what = f"{name} is a depth map in a video of {seen.bits} bits ({seen.pixels})"
    if seen.bits < 12 or not seen.pixels.startswith(("gray", "yuv")):
        reason = f"{what}, which has lost its distances; take another feature"
        return Reader(replace(stream, kind="other", source=reason))
    scale: list[Any] = [facts.get(f"video.{fact}") for fact in ("depth_min", "depth_max", "shift", "use_log")]
    if all(isinstance(number, int | float) for number in scale):
        low, high, shift, log = scale
        distances = metres(float(low), float(high), float(shift), log=bool(log))
        scale_m = 10.0 ** math.ceil(math.log10(high / 65535))  # 16 bits are finer than the 12 of the codes
        table = np.rint(distances / scale_m).astype(np.uint16)
        source = f"{INFO}: {'logarithmic' if log else 'linear'} codes from {low} to {high} m; code 0 is no reading"
        stream = replace(stream, kind="depth", stated={"scale_m": scale_m}, source=source)
        return Reader(stream, lambda codes: table[np.minimum(codes, CODES - 1)], codes=True)
    if seen.bits == 16:
        return Reader(replace(stream, kind="depth"), codes=True)
    reason = (
        f"{what}, but {INFO} does not state how its codes become metres: add video.depth_min, video.depth_max, "
        "video.shift and video.use_log to the info of the feature"
    )
    return Reader(replace(stream, kind="other", source=reason))


def metres(low: float, high: float, shift: float, *, log: bool) -> Float64[np.ndarray, " codes"]:
    """The meaning of the 12-bit codes of a depth map, metres.

    Codes are in equal steps of the distance, or of the logarithm of the distance plus `shift`. Code 0 is what is nearer
    than `low`, also pixels without reading, and becomes 0; the last code is `high` and everything beyond.

    Raises:
        SourceError: the range is empty, or has no logarithm.
    """
    if not (0 <= low < high < math.inf and (not log or low + shift > 0)):
        raise SourceError(f"{INFO}: depth from {low} to {high} m with shift {shift} is no range; correct the file")
    steps = np.arange(CODES) / (CODES - 1)
    if log:
        distances = np.exp(math.log(low + shift) + steps * math.log((high + shift) / (low + shift))) - shift
    else:
        distances = low + steps * (high - low)
    distances[0] = 0
    return distances


def image_reader(name: str, feature: dict[str, Any], first: bytes | None) -> Reader:
    """The stream of a feature of encoded pictures, by the first of them."""
    facts = feature.get("info") or {}
    if first is None:
        return Reader(Stream(name, "other", "empty", 0, source=f"{name} has no picture; take another feature"))
    with _opened(first, name) as picture:
        mode, encoding, (width, height) = picture.mode, (picture.format or "").lower(), picture.size
    depth = _is_depth(facts) or mode.startswith("I") or mode == "F"
    stream = Stream(name, "depth" if depth else "grey" if mode == "L" else "rgb", encoding, 0, height, width)
    unit = facts.get("depth_unit")
    if depth and unit in UNITS:
        stated = f"{INFO}: depth_unit of {name} is {unit}"
        stream = replace(stream, stated={"scale_m": UNITS[unit]}, source=stated)
    return Reader(stream, lambda content: _as_stored(content, name, depth=depth))


def _as_stored(content: bytes, name: str, *, depth: bool) -> bytes | np.ndarray:
    if content.startswith(PNG) or (content.startswith(JPEG) and not depth):
        return content
    if content.startswith(JPEG):
        raise SourceError(f"{name} is a depth map in JPEG, which has lost its distances; take another feature")
    with _opened(content, name) as picture:
        return np.asarray(picture if depth or picture.mode == "L" else picture.convert("RGB"))


def _opened(content: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise SourceError(f"{name} has a picture that is neither PNG, JPEG nor TIFF; take another feature") from error


def _is_depth(facts: dict[str, Any]) -> bool:
    return bool(facts.get("is_depth_map") or facts.get("video.is_depth_map"))
