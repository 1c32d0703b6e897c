"""Maps of one number a pixel: crops of the stored numbers, and a range of them that an encoder sees."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from modalities import CropBox
from modalities.common.picture import PictureView, colour_map
from modalities.common.ranges import bounds_of_half

NARROW = 0.01  # numbers that take a smaller share of a view's range, from the lowest to the highest, look the same


class MapView(PictureView):
    """A view of maps of one number a pixel, whose crops take the nearest stored number."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One number for each pixel."""
        return (1, *self.sides)

    def adapt(
        self, signal: Float[Tensor, "1 height width"], window: CropBox
    ) -> Float[Tensor, "1 {self.sides[0]} {self.sides[1]}"]:
        """The window's part of the map; every pixel is one of the stored ones, or `nothing` outside the map."""
        return self.resize_crop(signal, window, nearest=True)


class RangeView(MapView):
    """A view in equal steps from the lowest to the highest number of a range; NaN is "no reading"."""

    colours: ClassVar[str]  # name of the colour map of pictures

    @property
    @abstractmethod
    def span(self) -> tuple[float, float]:
        """The lowest and the highest number that the encoder sees."""

    def normalise(self, batch: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
        """The place in the range, 0 at its low end and without reading and 1 at its high end; less 0.5, over 0.25."""
        return (self._place(batch) - 0.5) / 0.25

    def picture(self, adapted: Float[Tensor, "1 height width"]) -> Float[Tensor, "3 height width"]:
        """Low dark, high bright, no reading black."""
        return torch.where(adapted.isnan(), 0.0, colour_map(self._place(adapted)[0], self.colours).to(adapted))

    def _place(self, values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        low, high = self.span
        place = ((values - low) / (high - low)).clamp(0, 1)
        return torch.where(values.isnan(), 0.0, place)


def refuse_outside(statistics: Mapping[str, float], span: tuple[float, float], unit: str, advice: str) -> None:
    """Refuses numbers of which at least half would be seen as one, or all nearly as one; see `bounds_of_half`.

    Args:
        statistics: mean, std, min and max of all readings in `unit`; absent where there is none.
        span: the lowest and the highest number of the range.
        unit: name of the unit in messages, or nothing.
        advice: what to do, besides setting the view's low and high.

    Raises:
        ValueError: so many certainly lie outside the range, or all take less than `NARROW` of it.
    """
    if "mean" not in statistics:
        return
    (low, high), (least, most) = span, bounds_of_half(statistics)
    lowest, highest = statistics["min"], statistics["max"]
    if most < low:
        problem = f"at least half of them lie below {most:g}, so below low={low:g}, and would be seen as one"
    elif least > high:
        problem = f"at least half of them lie above {least:g}, so above high={high:g}, and would be seen as one"
    elif highest - lowest < NARROW * (high - low):
        problem = f"they take less than {NARROW:.0%} of the range from low={low:g} to high={high:g}"
    else:
        return
    raise ValueError(
        f"the readings are from {lowest:g} to {highest:g}{' ' * bool(unit)}{unit}, with a mean of "
        f"{statistics['mean']:g}: {problem}; set the view's low and high, or {advice}"
    )
