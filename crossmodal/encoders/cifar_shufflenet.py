"""ShuffleNet for pictures of 32 pixels (Zhang et al. 2018, https://arxiv.org/abs/1707.01083)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import climb, finish, read_channels, shuffle

_FIRST = 24  # channels of the stem
_STAGES = ((240, 4), (480, 8), (960, 4))  # channels and blocks, as in the paper for three groups
_GROUPS = 3


class CifarShuffleNet(Encoder):
    """ShuffleNet for small pictures; three maps of 240, 480 and 960 channels, from 1/2 to 1/8 of the size.

    It is ShuffleV1 of the CRD benchmark (Tian et al. 2020, https://arxiv.org/abs/1910.10699), whose weights load
    unchanged. The embedding is the mean of the last map.

    Raises:
        ValueError: the shape is not that of a picture.
    """

    stem = "conv1.weight"
    classifier = "linear."
    trunk: nn.ModuleDict

    def __init__(self, shape: tuple[int, ...], classes: int = 0) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        self.trunk = nn.ModuleDict({"conv1": nn.Conv2d(channels, _FIRST, 1, bias=False), "bn1": nn.BatchNorm2d(_FIRST)})
        before = _FIRST
        for number, (after, blocks) in enumerate(_STAGES, 1):
            further = [_Block(after, after) for _ in range(blocks - 1)]
            self.trunk[f"layer{number}"] = nn.Sequential(_Block(before, after), *further)
            before = after
        if classes:
            self.trunk["linear"] = nn.Linear(before, classes)
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps of the three stages, the mean of the last, and logits if there are classes."""
        trunk = self.trunk
        stem = trunk["bn1"](trunk["conv1"](batch)).relu()
        picture, maps, before = climb(stem, (trunk["layer1"], trunk["layer2"], trunk["layer3"]), leave)
        embedding = picture.mean(dim=(2, 3))
        return Features(embedding, maps, trunk["linear"](embedding) if "linear" in trunk else None, stem, before)


class _Block(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise convolution, grouped 1x1 convolution; without the last ReLU.

    If the channels change, it halves the picture and is concatenated with its pooled input; else the input is added.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.halves = before != after
        own = after - before if self.halves else after
        hidden = own // 4
        self.groups = 1 if before == _FIRST else _GROUPS  # the stem has too few channels for groups
        self.conv1 = nn.Conv2d(before, hidden, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, 2 if self.halves else 1, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, own, 1, groups=_GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(own)

    def forward(self, picture: Tensor) -> Tensor:
        hidden = shuffle(self.bn1(self.conv1(picture)).relu(), self.groups)
        # the paper has no ReLU after the depthwise convolution, but the published benchmark has one
        widened = self.bn3(self.conv3(self.bn2(self.conv2(hidden)).relu()))
        if not self.halves:
            return widened + picture
        return torch.cat([widened, nn.functional.avg_pool2d(picture, 3, 2, 1)], dim=1)
