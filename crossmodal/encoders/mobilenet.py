"""MobileNetV3 (Howard et al. 2019, https://arxiv.org/abs/1905.02244) of torchvision."""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models

from crossmodal.encoders import IMAGENET, Encoder, Features, Leave, Published, stay
from crossmodal.encoders.common.picture import choose, finish, read_channels, with_channels

_ENDS = {"small": (0, 1, 3, 8, 12), "large": (1, 3, 6, 12, 16)}  # last layer at each resolution


class MobileNet(Encoder):
    """MobileNetV3 of torchvision; five maps; the embedding is the mean of the last.

    The classifier, which has a hidden layer, exists only if there are classes. All maps but the last are outputs of
    linear bottlenecks or of the stem; with size small, the stem's output is the first map, so `Features.stem` is None.
    It loads torchvision's published weights, which expect RGB in [0, 1], normalised by mean (0.485, 0.456, 0.406) and
    deviation (0.229, 0.224, 0.225).

    Raises:
        ValueError: the shape is not that of a picture, or `dropout` is not in [0, 1].
    """

    stem = "features.0.0.weight"
    classifier = "classifier."
    trunk: models.MobileNetV3

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        size: Literal["small", "large"] = "small",  # 0.9 or 3.0 million weights without the classifier
        dropout: float = 0.0,  # dropout probability in the classifier's hidden layer; published: 0.2
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        build = choose("size", size, {"small": models.mobilenet_v3_small, "large": models.mobilenet_v3_large})
        self.trunk = build(num_classes=max(classes, 1), dropout=dropout)
        self.trunk.features[0][0] = with_channels(self.trunk.features[0][0], channels)
        if classes == 0:
            self.trunk.classifier = nn.Identity()
        self.has_logits, self.ends = classes > 0, _ENDS[size]
        self.spec = finish(self, shape)

    @classmethod
    def published(cls, **options: Any) -> Published | None:
        """Torchvision's ImageNet statistics."""
        return IMAGENET

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The last map at each resolution, the mean of the last one, and logits if there are classes."""
        picture = self.trunk.features[0](batch)
        maps, stem = ([picture], None) if 0 in self.ends else ([], picture)
        picture = leave(picture) if maps else picture
        for position, layer in enumerate(self.trunk.features[1:], 1):
            picture = layer(picture)
            if position in self.ends:
                maps.append(picture)
                picture = leave(picture)
        embedding = picture.mean(dim=(2, 3))
        return Features(embedding, tuple(maps), self.trunk.classifier(embedding) if self.has_logits else None, stem)
