"""EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946; V2: https://arxiv.org/abs/2104.00298)."""

from dataclasses import replace
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models

from crossmodal.encoders import IMAGENET, Encoder, Features, Leave, Published, stay
from crossmodal.encoders.common.picture import choose, finish, read_channels, with_channels

_VARIANTS = {
    "b0": models.efficientnet_b0,
    "b1": models.efficientnet_b1,
    "b2": models.efficientnet_b2,
    "b3": models.efficientnet_b3,
    "v2_s": models.efficientnet_v2_s,
}
_SIZES = {"b0": 224, "b1": 240, "b2": 288, "b3": 300, "v2_s": 384}  # pixels, in torchvision's evaluation


class EfficientNet(Encoder):
    """EfficientNet B0 to B3 and V2-S of torchvision; five maps; the embedding is the mean of the last.

    All maps but the last are outputs of linear bottlenecks. It loads torchvision's published weights, which expect
    RGB in [0, 1], normalised by mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225).

    Raises:
        ValueError: the shape is not that of a picture, or `dropout` is not in [0, 1].
    """

    stem = "features.0.0.weight"
    classifier = "classifier."
    trunk: models.EfficientNet

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        variant: Literal["b0", "b1", "b2", "b3", "v2_s"] = "b0",  # millions of weights: 4.0, 6.5, 7.7, 10.7, 20.2
        dropout: float = 0.0,  # dropout probability before the classifier; published: 0.2, 0.3
        drop_path: float = 0.0,  # probability of skipping the last residual branch in training; published: 0.2
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        build = choose("variant", variant, _VARIANTS)
        self.trunk = build(num_classes=max(classes, 1), dropout=dropout, stochastic_depth_prob=drop_path)
        self.trunk.features[0][0] = with_channels(self.trunk.features[0][0], channels)
        if classes == 0:
            self.trunk.classifier = nn.Identity()
        self.has_logits = classes > 0
        self.spec = finish(self, shape)

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """Torchvision's ImageNet statistics, and the size of the variant."""
        return replace(IMAGENET, size=_SIZES.get(options.get("variant", "b0"), 224))

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The last map at each resolution, the mean of the last one, and logits if there are classes."""
        picture = stem = self.trunk.features[0](batch)
        maps = []
        ends = (1, 2, 3, 5, len(self.trunk.features) - 1)  # last layer at each resolution, the same in all variants
        for position, layer in enumerate(self.trunk.features[1:], 1):
            picture = layer(picture)
            if position in ends:
                maps.append(picture)
                picture = leave(picture)
        embedding = picture.mean(dim=(2, 3))
        return Features(embedding, tuple(maps), self.trunk.classifier(embedding) if self.has_logits else None, stem)
