"""What is predicted at every place of a picture: the targets, the loss and the score."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.views import View


@dataclass(frozen=True)
class Quality:
    """One number by which answers are judged."""

    name: str  # the beginning of a metric's name
    heading: str
    higher_is_better: bool = True
    percent: bool = True


class Score(ABC):
    """Answers judged so far, of one decoder."""

    @abstractmethod
    def add(
        self, answer: Float[Tensor, "batch outputs height width"], truth: Float[Tensor, "batch _ height width"]
    ) -> None:
        """Judges the answers to some pictures."""

    @abstractmethod
    def values(self) -> dict[str, float]:
        """The numbers by the names of the task's qualities, of all pictures.

        Raises:
            ValueError: no place had a truth.
        """

    def parts(self) -> dict[str, float]:
        """The first number of each class, such as its IoU; empty for most scores."""
        return {}


@dataclass(frozen=True)
class Task(ABC):
    """A quantity at every place.

    Targets are sums that can be averaged over an area: with the loss of the mean target an answer is trained as with
    the mean loss of all places of the area, up to a constant, if it is the same all over the area.
    """

    starts_at_mean: ClassVar[bool] = False  # whether a decoder begins with the mean target as the answer everywhere
    view: View  # of the truth

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Numbers that a decoder answers at each place."""

    @abstractmethod
    def targets(
        self, truth: Float[Tensor, "batch _ height width"]
    ) -> tuple[Float[Tensor, "batch outputs height width"], Float[Tensor, "batch 1 height width"]]:
        """The target of each place, 0 where it has none, and 1 where it has one and 0 elsewhere."""

    @abstractmethod
    def loss(
        self,
        answer: Float[Tensor, "batch outputs height width"],
        target: Float[Tensor, "batch outputs height width"],
        weight: Float[Tensor, "batch 1 height width"],
    ) -> Float[Tensor, ""]:
        """The mean loss over the places with a target; targets and weights may be means over areas."""

    @abstractmethod
    def score(self) -> Score:
        """A new score."""

    def prepare(self, adapted: Float[Tensor, "batch _ height width"]) -> Float[Tensor, "batch _ height width"]:
        """The truth at every place, from samples of the truth's view."""
        return adapted

    @abstractmethod
    def picture(self, answer: Float[Tensor, "outputs height width"]) -> Float[Tensor, "3 height width"]:
        """An answer for people, in [0, 1]."""

    def show(self, truth: Float[Tensor, "_ height width"]) -> Float[Tensor, "3 height width"]:
        """The truth for people, in [0, 1]."""
        return self.view.modality.picture(truth)

    def legend(self) -> dict[str, str]:
        """The legend of both pictures, "#rrggbb" by label; empty if a few colours are not enough."""
        return {}


def mean_of(total: Tensor, weight: Tensor) -> Tensor:
    """The mean over places with a target; 0 where a batch has none, so that it changes nothing."""
    return total / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def squared_error(answer: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """The mean squared error of a task's answers, up to a constant; see `Task.loss`."""
    return mean_of((weight * answer.square() - 2 * answer * target).sum(), weight)


def refuse_none(count: int) -> int:
    """The number of places that are judged.

    Raises:
        ValueError: it is 0.
    """
    if not count:
        raise ValueError("no place of the pictures has a truth, so there is nothing to judge by")
    return count
