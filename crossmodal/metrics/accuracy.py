"""Share of right answers."""

from jaxtyping import Int
from torch import Tensor


def accuracy(answer: Int[Tensor, " pairs"], truth: Int[Tensor, " pairs"]) -> float:
    """Share of right answers among the pairs that have a label, which is not -1."""
    labelled = truth >= 0
    return (answer[labelled] == truth[labelled]).double().mean().item()
