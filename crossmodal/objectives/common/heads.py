"""Heads on maps."""

from jaxtyping import Float
from torch import Tensor, nn


class MapHead(nn.Module):
    """Maps the channels at every place alike: one 1x1 convolution, or two with GELU between them.

    Raises:
        ValueError: `kind` is neither linear nor mlp.
    """

    def __init__(self, channels: int, dim: int, kind: str = "linear") -> None:
        super().__init__()
        if kind not in ("linear", "mlp"):
            raise ValueError(f"head must be linear or mlp, got {kind!r}")
        hidden = max(channels, dim)
        self.layers = nn.Conv2d(channels, dim, 1) if kind == "linear" else nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1)
        )  # fmt: skip

    def forward(self, item: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim height width"]:
        """The map with `dim` channels."""
        return self.layers(item)
