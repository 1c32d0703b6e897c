"""Projection heads of pretraining: from an encoder's embedding or map to the vectors that are compared."""

import torch
from torch import Tensor, nn


class Projector(nn.Sequential):
    """Linear layers with ReLU between them; `norm` adds batch norm before each ReLU and, without scale, at the end.

    Two layers are SimCLR's head; a wide hidden layer follows its recipe for small models. Three layers with `norm` are
    the head of MoCo v3 (Chen, Xie, He 2021, https://arxiv.org/abs/2104.02057, appendix).
    """

    def __init__(self, before: int, *, layers: int, hidden: int, dim: int, norm: bool) -> None:
        widths = [before, *[hidden] * (layers - 1), dim]
        modules: list[nn.Module] = []
        for number in range(layers):
            last = number == layers - 1
            modules.append(nn.Linear(widths[number], widths[number + 1], bias=not norm))
            if norm:
                modules.append(nn.BatchNorm1d(widths[number + 1], affine=not last))
            if not last:
                modules.append(nn.ReLU(inplace=True))
        super().__init__(*modules)


class MapProjector(nn.Module):
    """From a map to a vector: a residual block that halves the map, the mean, and a projector (LoCo's decoder).

    The projector computes in float32 or better under autocast, the block in the encoder's precision.

    Source: Xiong, Ren, Urtasun 2020, https://arxiv.org/abs/2008.01342, section 3.2.
    """

    def __init__(
        self, shape: tuple[int, int, int], *, block: bool, layers: int, hidden: int, dim: int, norm: bool
    ) -> None:
        super().__init__()
        self.block = _Halving(shape[0]) if block else nn.Identity()
        self.projector = Projector(shape[0], layers=layers, hidden=hidden, dim=dim, norm=norm)

    def forward(self, picture: Tensor) -> Tensor:
        """One vector for each image."""
        pooled = self.block(picture).mean(dim=(2, 3))
        with torch.autocast(pooled.device.type, enabled=False):
            return self.projector(pooled if pooled.dtype == torch.float64 else pooled.float())


class _Halving(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1, 2, bias=False), nn.BatchNorm2d(channels))

    def forward(self, picture: Tensor) -> Tensor:
        return (self.branch(picture) + self.shortcut(picture)).relu()
