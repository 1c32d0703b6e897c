"""Residual networks (He et al. 2016, https://arxiv.org/abs/1512.03385) of torchvision."""

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck

from crossmodal.encoders import IMAGENET, Encoder, Features, Leave, Published, stay
from crossmodal.encoders.common.picture import choose, finish, read_channels, with_channels


class ResNet(Encoder):
    """ResNet of torchvision with 18, 34 or 50 layers; four maps; the embedding is the mean of the last.

    It loads torchvision's published weights, which expect RGB in [0, 1], normalised by mean (0.485, 0.456, 0.406) and
    deviation (0.229, 0.224, 0.225). With 50 layers and the small stem it is ResNet50 of the CRD benchmark (Tian et al.
    2020, https://arxiv.org/abs/1910.10699), and loads its weights.

    Raises:
        ValueError: the shape is not that of a picture.
    """

    stem = "conv1.weight"
    classifier = "fc."
    trunk: models.ResNet
    other_names: Mapping[str, str] = {"shortcut.": "downsample.", "linear.": "fc."}  # in the benchmark's ResNet50

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        depth: Literal[18, 34, 50] = 18,  # layers with weights
        stem: Literal["imagenet", "small"] = "imagenet",  # small: 3x3 without stride or pooling, for about 32 pixels
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        build = choose("depth", depth, {18: models.resnet18, 34: models.resnet34, 50: models.resnet50})
        self.trunk = build(num_classes=max(classes, 1))
        if choose("stem", stem, {"imagenet": False, "small": True}):
            self.trunk.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.trunk.maxpool = nn.Identity()
        self.trunk.conv1 = with_channels(self.trunk.conv1, channels)
        if classes == 0:
            self.trunk.fc = nn.Identity()
        self.has_logits = classes > 0
        self.spec = finish(self, shape)

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """Torchvision's ImageNet statistics; None with the small stem, which has no common published weights."""
        return IMAGENET if options.get("stem", "imagenet") == "imagenet" else None

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The maps of layer1 to layer4, the mean of the last, and logits if there are classes."""
        trunk, maps, before = self.trunk, [], []
        picture = stem = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(batch))))
        for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
            *blocks, last = layer.children()
            for block in blocks:
                picture = block(picture)
            before.append(_without_last_relu(last, picture))
            picture = before[-1].relu()
            maps.append(picture)
            picture = leave(picture)
        embedding = picture.mean(dim=(2, 3))
        logits = trunk.fc(embedding) if self.has_logits else None
        return Features(embedding, tuple(maps), logits, stem, tuple(before))


def _without_last_relu(block: BasicBlock | Bottleneck, picture: Tensor) -> Tensor:
    """The output of torchvision's block before its last ReLU, which works in place there."""
    hidden = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(picture)))))
    if isinstance(block, Bottleneck):
        hidden = block.bn3(block.conv3(block.relu(hidden)))
    return hidden + (picture if block.downsample is None else block.downsample(picture))
