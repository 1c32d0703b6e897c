"""Residual networks for pictures of 32 pixels (He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2)."""

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import climb, draw_weights, finish, read_channels


class CifarResNet(Encoder):
    """ResNet for small pictures: three maps of 16, 32 and 64 channels; the embedding is the mean of the last.

    The maps have full, half and quarter resolution. In the CRD benchmark (Tian et al. 2020,
    https://arxiv.org/abs/1910.10699), `depth` 20, `width` 1 is resnet20 and `depth` 32, `width` 4 is resnet32x4; its
    weights load unchanged. Unlike in He et al., shortcuts that change the shape have weights.

    Raises:
        ValueError: `depth` is not 6 n + 2, `width` is below 1, or the shape is not that of a picture.
    """

    stem = "conv1.weight"
    classifier = "fc."
    trunk: nn.ModuleDict

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        depth: int = 20,  # layers with weights, 6 n + 2; published: 8, 20, 32, 56, 110
        width: int = 1,  # factor of the channels; published: 1, 4
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2, such as 8, 20, 32, 56 or 110, got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        first = max(16, 8 * width)  # the published networks of width 4 start with 32 channels, not 64
        blocks = (depth - 2) // 6
        self.trunk = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(channels, first, 3, 1, 1, bias=False),
                "bn1": nn.BatchNorm2d(first),
                "layer1": _stage(first, 16 * width, 1, blocks),
                "layer2": _stage(16 * width, 32 * width, 2, blocks),
                "layer3": _stage(32 * width, 64 * width, 2, blocks),
            }
        )
        if classes:
            self.trunk["fc"] = nn.Linear(64 * width, classes)
        draw_weights(self.trunk)
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps of the three stages, the mean of the last, and logits if there are classes."""
        trunk = self.trunk
        stem = trunk["bn1"](trunk["conv1"](batch)).relu()
        picture, maps, before = climb(stem, (trunk["layer1"], trunk["layer2"], trunk["layer3"]), leave)
        embedding = picture.mean(dim=(2, 3))
        return Features(embedding, maps, trunk["fc"](embedding) if "fc" in trunk else None, stem, before)


class _Block(nn.Module):
    """Two convolutions plus a shortcut, without the ReLU after the sum."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = (
            nn.Identity()
            if (before, stride) == (after, 1)
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )

    def forward(self, picture: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(picture)).relu()
        return self.bn2(self.conv2(hidden)) + self.downsample(picture)


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    further = [_Block(after, after, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Block(before, after, stride), *further)
