"""The interface of an objective: everything that is minimised is one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossmodal.encoders import Features


@dataclass(frozen=True)
class Batch:
    """A batch of pairs, on the device, ready for the encoders."""

    inputs: dict[str, Tensor]  # view name -> what its encoder eats
    index: Int[Tensor, " batch"]  # stable number of each pair in its data set
    label: Int[Tensor, " batch"]  # class, -1 where there is none
    seed: int = 0  # address of the draws of this step: the same on every rank
    group: Int[Tensor, " batch"] | None = None  # number of each pair's group (a video, a room), -1 where it has none
    features: dict[str, Features] = field(default_factory=dict)  # teacher's name -> its features, where they are kept
    present: dict[str, Bool[Tensor, " batch"]] = field(default_factory=dict)  # by view, whether it is there; empty: all
    labelled: float | None = None  # labelled rows of each part of this rank's step, on average; None: this is the step


@dataclass(frozen=True)
class Outcome:
    """What an objective says of a batch."""

    loss: Float[Tensor, ""]  # mean over the batch's rows
    memo: tuple[Tensor, ...] = ()  # rows to remember, first dimension the batch; gathered from all ranks
    figures: dict[str, Tensor] = field(default_factory=dict)  # scalars worth logging, detached


class Learner(nn.Module):
    """What an objective remembers from step to step; most remember nothing."""

    relates_pairs: bool = False  # True: it says nothing of a single pair, for it compares those of a batch

    def remember(self, *memo: Tensor) -> None:
        """Learns from the memo of the step just taken, gathered from all ranks in rank order."""
        assert not memo, f"{type(self).__name__} gave a memo but remembers nothing"

    def memory(self) -> dict[str, Tensor]:
        """What is remembered and must be in a checkpoint; empty for most. Tensors are the live ones."""
        return {}


class Objective(Learner, ABC):
    """A loss between a student's and a teacher's features, with the heads it trains and what it remembers.

    Entries are built as ``Entry(student, teacher, pairs, **options)``: two `Spec`s (`teacher` is None where no teacher
    is named), the number of pairs in the data set, and keyword-only options. `forward` changes nothing.
    """

    uses_teacher: ClassVar[bool] = True  # False: it is built once, with no teacher
    uses_student: ClassVar[bool] = True  # False: it never looks at the student, whose features may then be None
    needs_logits: ClassVar[bool] = False  # True: the student is given a classifier

    # these may depend on options
    needs_labels: bool = False  # True: the pairs must have labels
    needs_groups: bool = False  # True: the pairs must have groups
    needs_alignment: bool = False  # True: maps are compared place by place, so both views must show the same
    only_prepares: bool = False  # True: it is left out of the main phase

    @abstractmethod
    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss on one batch, in float32 or better."""

    def preparation(self) -> "Objective | None":
        """What is minimised before the main phase, and may share weights with this one; None for most: nothing."""
        return None

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """Both sides in the space where this objective compares them, or None where there is no such space."""
        return None
