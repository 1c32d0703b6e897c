"""Why small encoders fall behind: five figures of an embedding, on pictures and two augmentations of each.

Source: Shi et al. 2022, https://arxiv.org/abs/2107.14762, section 3; alignment and uniformity are those of Wang and
Isola 2020, https://arxiv.org/abs/2005.10242. Distances are between unit vectors.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossmodal.metrics import neighbours
from crossmodal.metrics.retrieval import SCORES

KS = (1, 2, 5, 10, 20, 50, 101)  # neighbours among which the best number is chosen


def alignment(ours: Float[Tensor, "rows dim"], theirs: Float[Tensor, "rows dim"]) -> float:
    """Mean squared distance between two crops of the same samples, from 0 to 4; 0 where they are one."""
    return (2 - 2 * F.cosine_similarity(ours.double(), theirs.double(), dim=1)).mean().item()


def intra_class_alignment(rows: Float[Tensor, "rows dim"], label: Int[Tensor, " rows"]) -> float:
    """Mean squared distance within a class, of its different pairs, and the mean over classes; from 0 to 4.

    Of n vectors with mean m it is 2 (1 - |m|^2) n / (n - 1). Classes of one sample, and samples without a class, do not
    count; NaN where none is left.
    """
    unit = F.normalize(rows.double(), dim=1)
    found = []
    for own in label[label >= 0].unique():
        mine = unit[label == own]
        if len(mine) > 1:
            found.append(2 * (1 - mine.mean(0).square().sum()) * len(mine) / (len(mine) - 1))
    return torch.stack(found).mean().item() if found else math.nan


def uniformity(rows: Float[Tensor, "rows dim"], *, t: float = 2.0) -> float:
    """Ln of the mean of exp(-t * squared distance) over all different pairs; 0 for a point, -4 t at the least."""
    unit, total = F.normalize(rows.double(), dim=1), 0.0
    for piece in unit.split(max(1, SCORES // len(unit))):
        total += torch.exp(t * (2 * piece @ unit.T - 2)).sum().item()
    count = len(unit)
    return math.log(max(total - count, 1e-300) / (count * (count - 1)))


def instance_accuracy(originals: Float[Tensor, "rows dim"], crops: Float[Tensor, "rows dim"]) -> float:
    """Share of samples that lie nearer to their own crop than to any other sample."""
    unit, others = F.normalize(originals.double(), dim=1), F.normalize(crops.double(), dim=1)
    own, found, start = (unit * others).sum(1), 0, 0
    for piece in unit.split(max(1, SCORES // len(unit))):
        cosines = piece @ unit.T
        cosines[torch.arange(len(piece)), torch.arange(start, start + len(piece))] = -2.0
        found += int((own[start : start + len(piece)] > cosines.amax(1)).sum())
        start += len(piece)
    return found / len(unit)


def best_neighbours(
    train: Float[Tensor, "train dim"],
    label: Int[Tensor, " train"],
    test: Float[Tensor, "test dim"],
    truth: Int[Tensor, " test"],
) -> float:
    """Accuracy of kNN with the k of `KS` that is best for one half of the training rows among the other."""
    half = torch.arange(len(train)) % 2 == 0

    def accuracy(k: int) -> float:
        answer = neighbours.classify(train[half], label[half], train[~half], neighbours=k)
        return (answer == label[~half]).double().mean().item()

    answer = neighbours.classify(train, label, test, neighbours=max(KS, key=accuracy))
    return (answer == truth).double().mean().item()


def diagnose(
    original: Float[Tensor, "rows dim"],
    crops: tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]],
    label: Int[Tensor, " rows"],
) -> dict[str, float]:
    """All metrics except kNN, of whole samples and two random crops of each; within classes if there are classes."""
    found = {
        "alignment": alignment(*crops),
        "uniformity": uniformity(original),
        "instance": (instance_accuracy(original, crops[0]) + instance_accuracy(original, crops[1])) / 2,
    }
    within = intra_class_alignment(original, label)
    return found if math.isnan(within) else found | {"intra_class": within}
