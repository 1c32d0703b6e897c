"""A small convolutional network for small pictures, fast enough to train on two CPU cores."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import conv_layer, finish, read_channels

MOST_STAGES = 16  # these reduce a side of 2**17 pixels to one


class ConvNet(Encoder):
    """A small convolutional network for pictures of 16 to 128 pixels; stem and stages each halve the size.

    The embedding is the mean of the last map: `width` * 2 ** (`stages` - 1) numbers, 256 by default.

    Raises:
        ValueError: `width` is odd or below 2, `stages` is not from 1 to `MOST_STAGES`, or the shape is not that of a
            picture.
    """

    stem = "stem.0.weight"
    classifier = "classifier."
    trunk: nn.ModuleDict

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        width: int = 32,  # channels of the first stage; each further stage doubles them
        stages: int = 4,  # number of stages, each with one map
        norm: Literal["batch", "group", "none"] = "batch",  # normalisation; group also works with small batches
        # of strided layers: both sides, or end for the grid of TensorFlow's networks, such as EfficientNet-Lite's
        padding: Literal["both", "end"] = "both",
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"width must be even and at least 2, got {width}")
        if not 1 <= stages <= MOST_STAGES:
            raise ValueError(f"stages must be from 1 to {MOST_STAGES}, got {stages}")
        channels = read_channels(shape, classes)
        widths = [width // 2] + [width * 2**stage for stage in range(stages)]
        blocks = [
            nn.Sequential(*conv_layer(before, after, 2, norm, padding), *conv_layer(after, after, 1, norm))
            for before, after in pairwise(widths)
        ]
        self.trunk = nn.ModuleDict(
            {
                "stem": nn.Sequential(*conv_layer(channels, widths[0], 2, norm, padding)),
                "stages": nn.Sequential(*blocks),
            }
        )
        if classes:
            self.trunk["classifier"] = nn.Linear(widths[-1], classes)
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """One map per stage, the mean of the last, and logits if there are classes."""
        picture = stem = self.trunk["stem"](batch)
        maps, before = [], []
        for stage in self.trunk["stages"].children():
            for layer in list(stage.children())[:-1]:
                picture = layer(picture)
            before.append(picture)
            picture = picture.relu()  # not the stage's own, which works in place and would overwrite `before`
            maps.append(picture)
            picture = leave(picture)
        embedding = picture.mean(dim=(2, 3))
        logits = self.trunk["classifier"](embedding) if "classifier" in self.trunk else None
        return Features(embedding, tuple(maps), logits, stem, tuple(before))
