"""A network of five convolutions, the size of the student in the depth experiments of CRD (arXiv 1910.10699)."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import conv_layer, finish, read_channels


class Conv5(Encoder):
    """Five 3x3 convolutions with `width` times 1, 2, 4, 8 and 8 channels; all but the last halve the picture.

    Every layer gives a map, at strides 2, 4, 8, 16 and 16; the embedding is the mean of the last. The paper names a
    5-layer CNN but not its widths; `width: 24` gives 0.55 million weights.

    Raises:
        ValueError: `width` is below 1, or the shape is not that of a picture.
    """

    stem = "0.0.weight"
    classifier = "5."
    trunk: nn.Sequential

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        width: int = 24,  # channels of the first layer
        norm: Literal["batch", "group", "none"] = "batch",  # normalisation; group also works with small batches
        # of strided layers: both sides, or end for the grid of TensorFlow's networks, such as EfficientNet-Lite's
        padding: Literal["both", "end"] = "both",
    ) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        widths = [read_channels(shape, classes), *(width * factor for factor in (1, 2, 4, 8, 8))]
        layers = [
            nn.Sequential(*conv_layer(before, after, 2 if number < 4 else 1, norm, padding))
            for number, (before, after) in enumerate(pairwise(widths))
        ]
        self.trunk = nn.Sequential(*layers, *([nn.Linear(widths[-1], classes)] if classes else []))
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """One map per layer, the mean of the last, and logits if there are classes."""
        picture, maps = batch, []
        for layer in self.trunk[:5]:
            maps.append(layer(picture))
            picture = leave(maps[-1])
        embedding = picture.mean(dim=(2, 3))
        return Features(embedding, tuple(maps), self.trunk[5](embedding) if len(self.trunk) > 5 else None)
