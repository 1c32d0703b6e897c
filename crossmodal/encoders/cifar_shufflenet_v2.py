"""ShuffleNetV2 for pictures of 32 pixels (Ma et al. 2018, https://arxiv.org/abs/1807.11164)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import choose, climb, finish, read_channels, shuffle

_FIRST = 24  # channels of the stem
_BLOCKS = (3, 7, 3)  # blocks of each stage after the one that halves the picture
_WIDTHS = {  # channels of the three stages and of the last layer, from the paper's table 5
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class CifarShuffleNetV2(Encoder):
    """ShuffleNetV2 for small pictures; three maps, from 1/2 to 1/8 of the size.

    With `width` 1 it is ShuffleV2 of the CRD benchmark (Tian et al. 2020, https://arxiv.org/abs/1910.10699) and loads
    its weights unchanged. The embedding is the mean of the 1024 (`width` 2: 2048) channels above the last map.

    Raises:
        ValueError: `width` is not one of the published, or the shape is not that of a picture.
    """

    stem = "conv1.weight"
    classifier = "linear."
    trunk: nn.ModuleDict
    ends_in_map = False

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        width: float = 1.0,  # approximate factor of the channels: 0.5, 1, 1.5 or 2; published: 1
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        *widths, last = choose("width", width, _WIDTHS)
        self.trunk = nn.ModuleDict({"conv1": nn.Conv2d(channels, _FIRST, 1, bias=False), "bn1": nn.BatchNorm2d(_FIRST)})
        before = _FIRST
        for number, (after, blocks) in enumerate(zip(widths, _BLOCKS, strict=True), 1):
            further = [_Block(after) for _ in range(blocks)]
            self.trunk[f"layer{number}"] = nn.Sequential(_Halving(before, after), *further)
            before = after
        self.trunk["conv2"] = nn.Conv2d(before, last, 1, bias=False)
        self.trunk["bn2"] = nn.BatchNorm2d(last)
        if classes:
            self.trunk["linear"] = nn.Linear(last, classes)
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps of the three stages, the mean of the last layer, and logits if there are classes."""
        trunk = self.trunk
        stem = trunk["bn1"](trunk["conv1"](batch)).relu()
        picture, maps, before = climb(stem, (trunk["layer1"], trunk["layer2"], trunk["layer3"]), leave)
        embedding = trunk["bn2"](trunk["conv2"](picture)).relu().mean(dim=(2, 3))
        return Features(embedding, maps, trunk["linear"](embedding) if "linear" in trunk else None, stem, before)


class _Block(nn.Module):
    """Three convolutions on the second half of the channels, then a shuffle of both; without the last ReLU.

    A second ReLU does not change the first half, which the block before has passed through one. The published code
    shuffles maps but not their pre-activations; here both have the same order of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, picture: Tensor) -> Tensor:
        unchanged, changed = picture.chunk(2, dim=1)
        hidden = self.bn2(self.conv2(self.bn1(self.conv1(changed)).relu()))
        return shuffle(torch.cat([unchanged, self.bn3(self.conv3(hidden))], dim=1), 2)


class _Halving(nn.Module):
    """Two branches over all channels that halve the picture, then a shuffle of both; without the last ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        half = after // 2
        self.conv1 = nn.Conv2d(before, before, 3, 2, 1, groups=before, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.conv2 = nn.Conv2d(before, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(before, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, picture: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(picture))))
        right = self.bn4(self.conv4(self.bn3(self.conv3(picture)).relu()))
        return shuffle(torch.cat([left, self.bn5(self.conv5(right))], dim=1), 2)
