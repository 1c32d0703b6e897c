"""The mean classifier: every class is the mean embedding of its training pairs, and the greatest product wins.

Source: Arora et al. 2019, https://arxiv.org/abs/1902.09229; mu-5 and AVG-2 as in Nozawa, Germain, Guedj 2020,
https://arxiv.org/abs/1910.04464.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modalities.common.random import generator


def class_means(
    rows: Float[Tensor, "pairs dim"], labels: Int[Tensor, " pairs"], *, shots: int | None = None, seed: int = 0
) -> Float[Tensor, "classes dim"]:
    """The mean of every class over all its pairs, or over `shots` drawn ones; NaN where a class has none."""
    means = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        if shots is not None:
            members = members[torch.randperm(len(members), generator=generator(seed, "shots", label))[:shots]]
        means.append(rows[members].mean(0))
    return torch.stack(means)


def mean_classifier(
    means: Float[Tensor, "classes dim"], rows: Float[Tensor, "pairs dim"], labels: Int[Tensor, " pairs"]
) -> dict[str, float]:
    """Shares of pairs that are classified rightly, those without a class, or of one without a mean, left out.

    Returns:
        avg2: of two classes, a pair's own and another, the mean over all pairs of classes; top1, top5: of all.
    """
    known = (labels >= 0) & (labels < len(means))
    known[known.clone()] = means.isfinite().all(1)[labels[known]]
    scores, labels = rows[known] @ means.T, labels[known]
    own = scores.gather(1, labels[:, None])
    beaten = (scores < own) | scores.isnan()
    place = (~beaten).sum(1) - 1  # classes that score at least as much, but its own
    others: list[int] = labels.unique().tolist()
    pairs = [
        (beaten[labels == one, other].double().sum() + beaten[labels == other, one].double().sum())
        / ((labels == one) | (labels == other)).sum()
        for number, one in enumerate(others)
        for other in others[number + 1 :]
    ]
    return {
        "avg2": float(torch.stack(pairs).mean()) if pairs else 1.0,
        "top1": (place < 1).double().mean().item(),
        "top5": (place < 5).double().mean().item(),
    }
