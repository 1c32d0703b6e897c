"""The interface of an objective, a loss that trains a student."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crossmodal.encoders import Features


@dataclass(frozen=True)
class Batch:
    """A batch of pairs on the device, ready for the encoders."""

    inputs: dict[str, Tensor]  # view name -> input of its encoder
    index: Int[Tensor, " batch"]  # stable number of each pair in its data set
    label: Int[Tensor, " batch"]  # class, -1 where there is none
    seed: int = 0  # seed of this step's random draws; the same on every rank
    group: Int[Tensor, " batch"] | None = None  # number of each pair's group (a video, a room), -1 where it has none
    features: dict[str, Features] = field(default_factory=dict)  # teacher name -> its features, if cached
    present: dict[str, Bool[Tensor, " batch"]] = field(default_factory=dict)  # view -> which pairs have it; empty: all
    labelled: float | None = None  # labelled rows per micro-batch of this rank, on average; None: only one


@dataclass(frozen=True)
class Outcome:
    """The result of an objective on one batch."""

    loss: Float[Tensor, ""]  # mean over the batch's rows
    memo: tuple[Tensor, ...] = ()  # rows for `remember`, batch dimension first; gathered from all ranks
    figures: dict[str, Tensor] = field(default_factory=dict)  # scalars for the log, detached


class Learner(nn.Module):
    """A module that may keep state from step to step; most objectives keep none."""

    relates_pairs: bool = False  # True: the loss compares pairs within the batch, so a batch of one pair is useless

    def remember(self, *memo: Tensor) -> None:
        """Updates the state from the memo of the last step, gathered from all ranks in rank order."""
        assert not memo, f"{type(self).__name__} gave a memo but remembers nothing"

    def memory(self) -> dict[str, Tensor]:
        """The state to save in a checkpoint, as live tensors (not copies); empty for most objectives."""
        return {}


class Objective(Learner, ABC):
    """A loss between a student's and a teacher's features, with its projection heads and its state.

    Entries are built as ``Entry(student, teacher, pairs, **options)``: two `Spec`s (`teacher` is None without a
    teacher), the number of pairs in the data set, and keyword-only options. `forward` must not change any state.
    """

    uses_teacher: ClassVar[bool] = True  # False: it is built once, without a teacher
    uses_student: ClassVar[bool] = True  # False: it ignores the student's features, which may be None
    needs_logits: ClassVar[bool] = False  # True: the student gets a classifier

    # an instance may set these by its options
    needs_labels: bool = False  # True: the pairs must have labels
    needs_groups: bool = False  # True: the pairs must have groups
    needs_alignment: bool = False  # True: maps are compared place by place, so both views must be spatially aligned
    only_prepares: bool = False  # True: it only runs in the preparation phase, not in the main phase
    needs_calibration: bool = False  # True: `calibrate` measures the teacher's features before training
    reads: str | None = None  # the view of label maps that it reads itself; None: it reads none
    classes: int = 0  # number of classes of these label maps

    @abstractmethod
    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss on one batch, in float32 or better."""

    def count_classes(self, counts: Sequence[int]) -> None:  # most objectives do not need them
        """Called once before training with the number of labelled training pairs of each class."""

    def calibrate(self, teacher: Features) -> None:
        """Adds a batch of the teacher's features to the statistics that this objective needs."""
        raise NotImplementedError

    def finish_calibration(self) -> None:
        """Computes buffers from the statistics of all ranks, once, before training.

        Raises:
            ValueError: the features cannot be used.
        """
        raise NotImplementedError

    def preparation(self) -> "Objective | None":
        """The objective of the preparation phase, or None. It may share weights with this one."""
        return None

    def project(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """Both sides in the space where this objective compares them; None if there is no such space."""
        return None
