"""Collapse monitor of pretraining: cheap statistics of the vectors of one step, and warnings from them."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.multiview import Views

SEEN = 256  # pairs that are measured, if the batch is larger


@torch.no_grad()
def watch(views: Views, owners: Sequence[str]) -> dict[str, Tensor]:
    """Scalars of a batch, means over an encoder's views and over paired views; NaN with fewer than two pairs.

    - `rank`: effective rank of anchors' vectors, the squared sum of their covariance's eigenvalues over the sum of
      squares; 1 if all lie on a line, 0 if they are one point;
    - `spread`: root of the summed variances; about 1 for uniform directions, 0 if they are one point;
    - `positive`, `negative`: mean cosine with the own pair, and with others;
    - `found`: share of anchors whose own pair is the nearest of `1 / chance`; repeats of a pair do not count.

    Args:
        views: the batch.
        owners: the encoder of each view. With several, `rank.depth` is of one encoder, `found.rgb.depth` of two.
    """
    figures: dict[str, list[Tensor]] = defaultdict(list)
    several = len(set(owners)) > 1
    for anchor in views.anchors:
        whose = f".{owners[anchor]}" if several else ""
        valid = slice(None) if views.present is None else views.present[anchor]
        for name, value in _measure_place(views.queries[anchor][valid][:SEEN]).items():
            figures[f"{name}{whose}"].append(value)
    for anchor, other in views.pairings:
        whose = "".join(f".{name}" for name in dict.fromkeys(owners[view] for view in sorted((anchor, other))))
        both = views.both(anchor, other)
        rows, keys, index = (
            side[:SEEN] if both is None else side[both][:SEEN]
            for side in (views.queries[anchor], views.keys[other], views.index)
        )
        for name, value in _measure_cosines(rows @ keys.T, index).items():
            figures[f"{name}{whose if several else ''}"].append(value)
    return {name: torch.stack(values).nanmean() for name, values in figures.items()}


def _measure_place(rows: Float[Tensor, "rows dim"]) -> dict[str, Tensor]:
    if len(rows) < 2:
        return dict.fromkeys(("rank", "spread"), rows.new_full((), torch.nan))
    centred = rows - rows.mean(0)
    variances = centred.T @ centred / len(rows)
    total = variances.trace()
    return {"rank": total**2 / variances.square().sum().clamp(min=1e-12), "spread": total.sqrt()}


def _measure_cosines(cosines: Float[Tensor, "pairs pairs"], index: Int[Tensor, " pairs"]) -> dict[str, Tensor]:
    if len(cosines) < 2:
        return dict.fromkeys(("positive", "negative", "found", "chance"), cosines.new_full((), torch.nan))
    own, same = cosines.diagonal(), index[:, None] == index
    again = same & ~torch.eye(len(own), dtype=torch.bool, device=same.device)
    repeated = cosines.masked_fill(~again, 0).sum()
    nearest = (cosines >= own[:, None]).masked_fill(again, False).sum(1).eq(1).to(own.dtype).mean()
    return {
        "positive": own.mean(),
        "negative": (cosines.sum() - (own.sum() + repeated)) / (~same).sum(),  # NaN if all rows are one pair
        "found": nearest.masked_fill(same.all(), torch.nan),
        "chance": own.new_full((), 1 / len(own)),
    }


def warn(figures: dict[str, float]) -> list[str]:
    """Warnings, with the likely cause, from the mean figures of some steps after the first ones.

    Each encoder, each two paired encoders and each stage is judged separately, and named.
    """
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in figures.items():
        sign, _, whose = name.partition(".")
        groups[whose][sign] = value
    return [
        f"{whose.replace('.', ' and ')}: {problem}" if whose else problem
        for whose, signs in groups.items()
        for problem in _warn_of(signs)
    ]


def _warn_of(signs: dict[str, float]) -> list[str]:
    problems = []
    if "spread" in signs and signs["spread"] < 0.05:
        problems.append("all vectors are nearly one point (collapse): lower train.lr, raise the temperature, or give "
                        "uniformity or negatives more weight")  # fmt: skip
    elif "rank" in signs and signs["rank"] < 2:
        problems.append("vectors lie nearly on a line (effective rank below 2, dimensional collapse): use a stronger "
                        "augmentation, a lower temperature or a larger batch")  # fmt: skip
    if "found" in signs and signs["found"] <= min(2 * signs["chance"], 0.9):  # with two pairs, chance finds half
        problems.append("pairs are found no better than by chance: are they shuffled, do the views show the same, is "
                        "the temperature far too high or train.lr far too low?")  # fmt: skip
    elif not problems and "found" in signs and signs["positive"] - signs["negative"] < 0.05:
        problems.append("pairs are found, but hardly closer than others (a margin of cosines below 0.05): is the "
                        "temperature far too low?")  # fmt: skip
    return problems
