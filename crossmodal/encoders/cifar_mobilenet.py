"""MobileNetV2 for pictures of 32 pixels (Sandler et al. 2018, https://arxiv.org/abs/1801.04381)."""

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import draw_weights, finish, read_channels

_GROUPS = (  # channels at width 1, blocks, stride of the first block; the paper's table 2 with smaller strides
    (16, 1, 1),
    (24, 2, 1),
    (32, 3, 2),
    (64, 4, 2),
    (96, 3, 1),
    (160, 3, 2),
    (320, 1, 1),
)
_ENDS = (1, 2, 4, 6)  # groups whose output is a map: the last at each resolution
_EXPANSION = 6  # factor of a block's hidden channels; 1 in the first group


class CifarMobileNet(Encoder):
    """MobileNetV2 for small pictures; four maps, from 1/2 to 1/16 of the size; an embedding of 1280 numbers.

    With `width` 0.5 it is MobileNetV2 of the CRD benchmark (Tian et al. 2020, https://arxiv.org/abs/1910.10699) and
    loads its weights unchanged. Its blocks have no ReLU at the end, so maps have both signs and are also the
    `preactivations`. The embedding is the mean over the picture of the channels above the last map.

    Raises:
        ValueError: `width` is below 1/16, or the shape is not that of a picture.
    """

    stem = "conv1.0.weight"
    classifier = "classifier."
    trunk: nn.ModuleDict
    ends_in_map = False

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        width: float = 0.5,  # factor of the channels; the last 1280 grow only above 1; published: 0.5
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        if not width * _GROUPS[0][0] >= 1:
            raise ValueError(f"width must be at least 1/16, got {width}")
        before, last = int(32 * width), int(1280 * max(width, 1.0))
        conv1 = _convolve(channels, before, 3, stride=2)
        groups = []
        for number, (at_full_width, blocks, stride) in enumerate(_GROUPS):
            after = int(at_full_width * width)
            inputs, strides = [before] + [after] * (blocks - 1), [stride] + [1] * (blocks - 1)
            expansion = _EXPANSION if number else 1
            groups.append(
                nn.Sequential(*(_Block(a, after, s, expansion) for a, s in zip(inputs, strides, strict=True)))
            )
            before = after
        self.trunk = nn.ModuleDict(
            {
                "conv1": nn.Sequential(*conv1),
                "blocks": nn.Sequential(*groups),
                "conv2": nn.Sequential(*_convolve(before, last, 1)),
            }
        )
        if classes:
            self.trunk["classifier"] = nn.Sequential(nn.Linear(last, classes))
        draw_weights(self.trunk, linear_std=0.01)
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The last map at each resolution, the mean of the 1280 channels, and logits if there are classes."""
        trunk, maps = self.trunk, []
        picture = stem = trunk["conv1"](batch)
        for number, group in enumerate(trunk["blocks"].children()):
            picture = group(picture)
            if number in _ENDS:
                maps.append(picture)
                picture = leave(picture)
        embedding = trunk["conv2"](picture).mean(dim=(2, 3))
        logits = trunk["classifier"](embedding) if "classifier" in trunk else None
        return Features(embedding, tuple(maps), logits, stem, tuple(maps))


class _Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project; plus the input if the shape is unchanged."""

    def __init__(self, before: int, after: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        self.conv = nn.Sequential(
            *_convolve(before, hidden, 1),
            *_convolve(hidden, hidden, 3, stride=stride, groups=hidden),
            *_convolve(hidden, after, 1)[:-1],
        )
        self.adds = (before, stride) == (after, 1)

    def forward(self, picture: Tensor) -> Tensor:
        return self.conv(picture) + picture if self.adds else self.conv(picture)


def _convolve(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
