"""Agreement of two label maps: the confusion matrix and what is read off it.

The definitions are those of torchmetrics 1.9: `MulticlassJaccardIndex` (average "macro" and "none") and
`MulticlassAccuracy` (average "micro" and "macro"). The library itself is used in the tests only: its import takes
seconds, and what is needed of it is one count.
"""

from jaxtyping import Float, Int
from torch import Tensor


def confusion(
    answer: Int[Tensor, "*shape"], truth: Int[Tensor, "*shape"], classes: int
) -> Int[Tensor, "{classes} {classes}"]:
    """How often each true class (row) was answered with each class (column); places with a truth below 0 are ignored.

    Answers are from 0 to `classes` - 1.
    """
    known = truth >= 0
    both = truth[known].long() * classes + answer[known].long()
    return both.bincount(minlength=classes**2).view(classes, classes)


def iou(counts: Int[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """Intersection over union of each class; NaN for a class that is neither in the truth nor answered."""
    right = counts.diagonal().double()
    return right / (counts.sum(0) + counts.sum(1) - right)


def mean_iou(counts: Int[Tensor, "classes classes"]) -> float:
    """The mean over the classes that are in the truth or answered.

    Raises:
        ValueError: no place has a truth.
    """
    _refuse_empty(counts)
    return iou(counts).nanmean().item()


def pixel_accuracy(counts: Int[Tensor, "classes classes"]) -> float:
    """The share of places with the right answer.

    Raises:
        ValueError: no place has a truth.
    """
    _refuse_empty(counts)
    return (counts.diagonal().sum().double() / counts.sum()).item()


def class_accuracy(counts: Int[Tensor, "classes classes"]) -> float:
    """The mean recall of the classes that are in the truth or answered; the recall of the latter alone is 0.

    Raises:
        ValueError: no place has a truth.
    """
    _refuse_empty(counts)
    recall = counts.diagonal().double() / counts.sum(1).clamp(min=1)
    return recall[counts.sum(0) + counts.sum(1) > 0].mean().item()


def _refuse_empty(counts: Tensor) -> None:
    if not counts.any():
        raise ValueError("no place of the label maps has a class, so there is nothing to judge by")
