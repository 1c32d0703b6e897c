"""VGG with batch norm for pictures of 32 pixels (Simonyan, Zisserman 2015, https://arxiv.org/abs/1409.1556)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import choose, draw_weights, finish, read_channels

_WIDTHS = (64, 128, 256, 512, 512)  # channels of the stem and of the four stages
_LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_SIDE = 64  # pixels; from this size on, the last stage also starts with pooling


class CifarVGG(Encoder):
    """VGG with batch norm for small pictures: four maps, and one linear layer in place of VGG's three.

    Each stage starts with pooling, which halves the map; the last does so only for pictures of at least 64 pixels. The
    embedding is the mean of the last map. `depth` 8 and 13 are vgg8 and vgg13 of the CRD benchmark (Tian et al. 2020,
    https://arxiv.org/abs/1910.10699), whose weights load unchanged.

    Raises:
        ValueError: `depth` is not one of those listed, or the shape is not that of a picture of at least 8 pixels.
    """

    stem = "block0.0.weight"
    classifier = "classifier."
    trunk: nn.ModuleDict

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        depth: Literal[8, 11, 13, 16, 19] = 8,  # layers by VGG's count; all but two are convolutions
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        if min(shape[1:]) < 8:
            raise ValueError(f"pictures are halved three times and must have at least 8 pixels a side, got {shape}")
        layers = choose("depth", depth, _LAYERS)
        befores = (channels, *_WIDTHS)
        blocks = [_block(befores[stage], _WIDTHS[stage], layers[stage]) for stage in range(5)]
        self.trunk = nn.ModuleDict({f"block{stage}": block for stage, block in enumerate(blocks)})
        if classes:
            self.trunk["classifier"] = nn.Linear(_WIDTHS[-1], classes)
        draw_weights(self.trunk, linear_std=0.01)
        self.pools = [1, 2, 3, 4] if min(shape[1:]) >= _SIDE else [1, 2, 3]
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps of the four stages, the mean of the last, and logits if there are classes."""
        trunk, maps, before = self.trunk, [], []
        picture = stem = trunk["block0"](batch).relu()
        for stage in range(1, 5):
            if stage in self.pools:
                picture = nn.functional.max_pool2d(picture, 2)
            before.append(trunk[f"block{stage}"](picture))
            picture = before[-1].relu()
            maps.append(picture)
            picture = leave(picture)
        embedding = picture.mean(dim=(2, 3))
        logits = trunk["classifier"](embedding) if "classifier" in trunk else None
        return Features(embedding, tuple(maps), logits, stem, tuple(before))


def _block(before: int, after: int, layers: int) -> nn.Sequential:
    """Convolutions with batch norm and ReLU, without the last ReLU."""
    modules: list[nn.Module] = []
    for layer in range(layers):
        conv = nn.Conv2d(before if layer == 0 else after, after, 3, 1, 1)
        modules += [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])
