"""Heads on maps."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn


class MapHead(nn.Module):
    """Maps the channels at every place alike: one 1x1 convolution, or two with GELU between them."""

    def __init__(self, channels: int, dim: int, kind: Literal["linear", "mlp"] = "linear") -> None:
        super().__init__()
        hidden = max(channels, dim)
        self.layers = nn.Conv2d(channels, dim, 1) if kind == "linear" else nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1)
        )  # fmt: skip

    def forward(self, item: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim height width"]:
        """The map with `dim` channels."""
        return self.layers(item)
