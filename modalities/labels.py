"""Maps of classes: what each pixel of a picture shows."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalities import CropBox, Modality
from modalities.codecs.classes import (
    LARGEST,
    UNLABELLED,
    decode_classes,
    decode_colours,
    encode_classes,
    encode_colours,
    stored_values,
)
from modalities.common.picture import PictureView
from modalities.synthetic.render import silhouettes
from modalities.synthetic.scene import SCENE_CLASSES, Scene


@dataclass(frozen=True)
class Labels(PictureView, Modality):
    """The class of each pixel as a whole number from 0, -1 where there is no label, from a PNG of 8 or 16 bits.

    A PNG holds class indices, as grey values or as the indices of a palette, whose colours do not matter; with
    `colours` it holds the colours of a legend. Classes are never mixed: resizing takes the nearest pixel. They are a
    target and no sensor's signal, so nothing augments or normalises them.

    Raises:
        ValueError: an option is out of its range.
    """

    field: ClassVar[str] = "labels"
    extensions: ClassVar[tuple[str, ...]] = ("png",)
    stored: ClassVar[tuple[str, ...]] = ("classes", "ignore", "colours")
    nothing: ClassVar[float] = UNLABELLED

    size: int | None = None  # pixels a side of a square view; null: 64, unless height and width are given
    height: int | None = None  # pixels, with width in place of size
    width: int | None = None  # pixels, with height in place of size
    fit: Literal["crop", "stretch"] = "crop"  # a picture of another width : height is cut, or stretched
    classes: tuple[str, ...] = SCENE_CLASSES  # names of the values, from 0 without ignore; the manifest has them
    ignore: int = 255  # stored value of "no label"; if it is 0, the first class is stored as 1
    # the legend, "#rrggbb" for each class, if the files hold colours; black is then "no label", unless a class has it
    colours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check_view()
        if len(self.classes) < 2:
            raise ValueError(f"classes must be at least two names, got {list(self.classes)}")
        if any(not name.strip() for name in self.classes):
            raise ValueError(f"classes must have names that are not empty, got {list(self.classes)}")
        _refuse_repeated("classes", self.classes)
        if not 0 <= self.ignore <= LARGEST:
            raise ValueError(f"ignore must be a whole number from 0 to {LARGEST}, got {self.ignore}")
        if not self.colours and stored_values(len(self.classes), self.ignore)[-1] > LARGEST:
            raise ValueError(f"classes must be at most {LARGEST}, which 16 bits hold, got {len(self.classes)}")
        if self.colours and len(self.colours) != len(self.classes):
            raise ValueError(f"colours must be one for each of {len(self.classes)} classes, got {len(self.colours)}")
        for colour in self.colours:
            if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
                raise ValueError(f'colours must be written as "#rrggbb", got {colour!r}')
        _refuse_repeated("colours", tuple(colour.lower() for colour in self.colours))

    @property
    def shape(self) -> tuple[int, ...]:
        """One class for each pixel."""
        return (1, *self.sides)

    def decode(self, payload: bytes) -> Float[Tensor, "1 height width"]:
        """The class of each pixel, -1 where there is no label; see `decode_classes` and `decode_colours`."""
        if self.colours:
            return decode_colours(payload, self._legend)
        return decode_classes(payload, len(self.classes), ignore=self.ignore)

    def encode(self, signal: Float[Tensor, "1 height width"]) -> bytes:
        """A PNG of indices, or in the legend's colours; see `encode_classes` and `encode_colours`."""
        if self.colours:
            return encode_colours(signal, self._legend)
        return encode_classes(signal, len(self.classes), ignore=self.ignore)

    def adapt(
        self, signal: Float[Tensor, "1 height width"], window: CropBox
    ) -> Float[Tensor, "1 {self.sides[0]} {self.sides[1]}"]:
        """The window's part of the map; every pixel is one of the stored ones, and -1 outside the picture."""
        return self.resize_crop(signal, window, nearest=True)

    def draw(self, generator: torch.Generator) -> Float[Tensor, "0"]:
        """Nothing: labels are not augmented."""
        return torch.empty(0)

    def augment(
        self, batch: Float[Tensor, "batch 1 height width"], draws: Float[Tensor, "batch 0"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """The batch itself."""
        return batch

    def normalise(self, batch: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """The batch itself: classes, which a loss or a metric reads."""
        return batch

    def picture(self, adapted: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """Each class in its legend's colour, or in one of its own; no label is black."""
        legend = self._legend if self.colours else _own_colours(len(self.classes))
        colours = torch.from_numpy(np.append(legend, 0)).to(adapted.device)[adapted[0].long()]
        return torch.stack([colours >> 16, colours >> 8 & 255, colours & 255]) / 255

    def render(self, scene: Scene) -> Float[Tensor, "1 height width"]:
        """The wall and the shape of the solid that each pixel of the scene shows, as numbers of `SCENE_CLASSES`."""
        owners = ["wall", *(solid.shape for solid in scene.solids)]
        return torch.tensor([SCENE_CLASSES.index(name) for name in owners])[silhouettes(scene) + 1][None].float()

    def refuse_unseen(self, statistics: Mapping[str, float]) -> None:
        """Refuses maps in which no pixel has a label.

        Args:
            statistics: the share of pixels without a label, and of each class among the others.

        Raises:
            ValueError: the maps are such.
        """
        if statistics.get("unlabelled_share") == 1:
            raise ValueError(f"no pixel has a label: all are ignore={self.ignore}; pack them with another ignore")

    @property
    def _legend(self) -> Int[np.ndarray, " classes"]:
        return np.array([int(colour[1:], 16) for colour in self.colours])


def _refuse_repeated(option: str, values: tuple[str, ...]) -> None:
    if repeated := [value for value, count in Counter(values).items() if count > 1]:
        raise ValueError(f"{option} must be different, got {repeated[0]!r} twice")


def _own_colours(count: int) -> Int[np.ndarray, " {count}"]:
    """A colour for each class as 0xRRGGBB, none black: the colour map of PASCAL VOC's labels without its first."""
    numbers, colours = np.arange(1, count + 1), np.zeros(count, dtype=np.int64)
    for digit in range(8):  # three bits of the number, from the lowest, give a bit of each channel, from the highest
        for channel, place in enumerate((16, 8, 0)):
            colours |= (numbers >> 3 * digit + channel & 1) << place + 7 - digit
    return colours
