"""Wide residual networks (Zagoruyko, Komodakis 2016, https://arxiv.org/abs/1605.07146)."""

from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder, Features, Leave, stay
from crossmodal.encoders.common.picture import draw_weights, finish, read_channels


class CifarWRN(Encoder):
    """Wide residual network for small pictures: three maps of 16, 32 and 64 times `width` channels.

    The maps have full, half and quarter resolution; there is no dropout. Batch norm and ReLU precede the convolutions,
    so a stage ends in a plain sum, which is its map, as in the CRD benchmark (Tian et al. 2020,
    https://arxiv.org/abs/1910.10699). `preactivations` are the sums after the next batch norm; the embedding is the
    mean of the last one's ReLU. `depth` 40, `width` 2 is the benchmark's wrn_40_2, whose weights load unchanged.

    Raises:
        ValueError: `depth` is not 6 n + 4, `width` is below 1, or the shape is not that of a picture.
    """

    stem = "conv1.weight"
    classifier = "fc."
    trunk: nn.ModuleDict
    ends_in_map = False

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int = 0,
        *,
        depth: int = 16,  # layers with weights, 6 n + 4; published: 16, 40
        width: int = 2,  # factor of the channels; published: 1, 2
    ) -> None:
        super().__init__()
        channels = read_channels(shape, classes)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, such as 16 or 40, got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        blocks = (depth - 4) // 6
        self.trunk = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(channels, 16, 3, 1, 1, bias=False),
                "block1": _Stage(16, 16 * width, 1, blocks),
                "block2": _Stage(16 * width, 32 * width, 2, blocks),
                "block3": _Stage(32 * width, 64 * width, 2, blocks),
                "bn1": nn.BatchNorm2d(64 * width),
            }
        )
        draw_weights(self.trunk)
        if classes:
            classifier = self.trunk["fc"] = nn.Linear(64 * width, classes)
            nn.init.zeros_(classifier.bias)
        self.spec = finish(self, shape)

    def forward(self, batch: Float[Tensor, "batch channels height width"], leave: Leave = stay) -> Features:
        """The sums of the three stages, the embedding, and logits if there are classes."""
        trunk, maps, norms = self.trunk, [], []
        picture = stem = trunk["conv1"](batch)
        for stage in (trunk["block1"], trunk["block2"], trunk["block3"]):
            norm, picture = stage(picture)
            norms.append(norm)
            maps.append(picture)
            picture = leave(picture)
        norms.append(trunk["bn1"](picture))
        embedding = norms[-1].relu().mean(dim=(2, 3))
        logits = trunk["fc"](embedding) if "fc" in trunk else None
        return Features(embedding, tuple(maps), logits, stem, tuple(norms[1:]))


class _Block(nn.Module):
    """Two convolutions plus a shortcut; returns its input after the first batch norm, and the sum.

    The first is the preceding stage's pre-activation. The published code calls the batch norm a second time for it,
    which counts every batch twice in the running statistics.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.convShortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.bn1(picture)
        active = norm.relu()
        shortcut = picture if self.convShortcut is None else self.convShortcut(active)
        return norm, shortcut + self.conv2(self.bn2(self.conv1(active)).relu())


class _Stage(nn.Module):
    """Blocks of one width, the first of which may change the shape; returns its norm, and the last sum."""

    def __init__(self, before: int, after: int, stride: int, blocks: int) -> None:
        super().__init__()
        further = [_Block(after, after, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(_Block(before, after, stride), *further)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        first, *further = self.layer.children()
        norm, picture = first(picture)
        for block in further:
            _, picture = block(picture)
        return norm, picture
