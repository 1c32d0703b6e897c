"""Pictures for the report."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor


def main_components(samples: Sequence[Sequence[Float[Tensor, "_ _ _"]]]) -> Float[Tensor, "pairs 3 height width"]:
    """The first three principal components of maps over all places of all samples, at the finest grid.

    Args:
        samples: the maps of each sample. Channels are standardised first.
    """
    finest = max((each.shape[1:] for each in samples[0]), key=math.prod)
    stacks = [torch.stack(each) for each in zip(*samples, strict=True)]
    whole = torch.cat([F.interpolate(stack, tuple(finest), mode="bilinear") for stack in stacks], 1)
    rows = whole.movedim(1, -1).flatten(0, 2).double()
    rows = (rows - rows.mean(0)) / rows.std(0).clamp(min=1e-6)
    axes = torch.linalg.eigh(rows.T @ rows)[1].T.flip(0)[:3]  # in ascending order; faster than an SVD of the rows
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()  # the sign of a component is arbitrary
    found = rows @ axes.T
    found = F.pad(found, (0, 3 - found.shape[1]))  # of fewer than three channels
    return found.float().unflatten(0, (len(samples), *finest)).movedim(-1, 1)


def to_legend(names: Sequence[str], colours: Float[Tensor, "3 1 names"]) -> dict[str, str]:
    """The colours as "#rrggbb" by name, and black where there is nothing to judge by."""
    rows = to_bytes(colours[None])[0, :, 0].T.tolist()
    named = {name: "#{:02x}{:02x}{:02x}".format(*row) for name, row in zip(names, rows, strict=True)}
    return {"no truth": "#000000"} | named


def to_bytes(pictures: Float[Tensor, "pairs 3 height width"]) -> UInt8[Tensor, "pairs 3 height width"]:
    """Pictures in [0, 1] as whole numbers to 255."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)
