"""Signs of how a pretraining goes, from the vectors of one step; none costs more than a few products."""

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.multiview._base import Views

SEEN = 256  # pairs that are looked at, of a larger batch


@torch.no_grad()
def watch(views: Views) -> dict[str, Tensor]:
    """Scalars of a batch, means over the views that meet; where none does, the first two over all.

    - `rank`: effective rank of an anchor view's vectors, the squared sum of their covariance's eigenvalues over the sum
      of squares; 1 where all lie on a line, 0 where they are one point;
    - `spread`: root of the summed variances; about 1 where vectors go everywhere, 0 where they are one point;
    - `positive`, `negative`: mean cosine with the own pair, and with others;
    - `found`: share of anchors whose own pair is the nearest of `1 / chance`.
    """
    some = min(len(views.index), SEEN)
    figures: dict[str, list[Tensor]] = {name: [] for name in ("rank", "spread", "positive", "negative", "found")}
    for anchor in views.anchors or range(len(views.queries)):
        there = slice(None) if views.present is None else views.present[anchor]
        variances = _covariance(views.queries[anchor][there][:some])
        total = variances.trace()
        figures["rank"].append(total**2 / variances.square().sum().clamp(min=1e-12))
        figures["spread"].append(total.sqrt())
    for anchor, other in views.meets:
        both = views.both(anchor, other)
        rows, keys = (side if both is None else side[both] for side in (views.queries[anchor], views.keys[other]))
        cosines = rows[:some] @ keys[:some].T
        own = cosines.diagonal()
        if not len(own):
            continue
        figures["positive"].append(own.mean())
        figures["negative"].append((cosines.sum() - own.sum()) / max(len(own) * (len(own) - 1), 1))
        figures["found"].append((cosines >= own[:, None]).sum(1).eq(1).float().mean())
    if not views.meets:
        figures = {name: figures[name] for name in ("rank", "spread")}
    none = [views.queries.new_zeros(())]  # where no pair of this batch has two views that meet
    found = {name: torch.stack(values or none).mean() for name, values in figures.items()}
    return found | {"chance": found["rank"].new_tensor(1 / some)}


def _covariance(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "dim dim"]:
    centred = rows - rows.sum(0) / max(len(rows), 1)
    return centred.T @ centred / max(len(rows), 1)


def warn(figures: dict[str, float]) -> list[str]:
    """What the mean figures of some steps, after the first ones, suggest is wrong; with the likely cause."""
    found = []
    if figures["spread"] < 0.05:
        found.append("all vectors are nearly one point (collapse): lower train.lr, raise the temperature, or give "
                     "uniformity or negatives more weight")  # fmt: skip
    elif figures["rank"] < 2:
        found.append("vectors lie nearly on a line (effective rank below 2, collapse of dimensions): take a stronger "
                     "augmentation, a lower temperature or a larger batch")  # fmt: skip
    if "found" in figures and figures["found"] <= min(2 * figures["chance"], 0.9):  # of two pairs chance finds one
        found.append("pairs are found no better than by chance: are they shuffled, do the views show the same, is the "
                     "temperature far too high or train.lr far too low?")  # fmt: skip
    return found
