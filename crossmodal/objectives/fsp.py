"""Flow of the solution procedure (Yim, Joo, Bae, Kim 2017).

Source: https://openaccess.thecvf.com/content_cvpr_2017/papers/Yim_A_Gift_From_CVPR_2017_paper.pdf
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.maps import meet
from crossmodal.objectives.common.projections import widen


class FSP(Objective):
    """Between any two stages that follow one another, the student's channels must go together as the teacher's do.

    A sample's matrix for two stages holds the mean over places of the product of every channel of the one with every
    channel of the other (eq. 1); what enters the first stage counts as a stage. Where the two differ in size, the
    larger is averaged down. The loss is the squared difference of student's and teacher's matrices (eq. 2), mean over
    the batch and a matrix's entries, sum over the matrices: the published code's, with its weight 50. The paper's is a
    sum over entries, by `compat: paper`; the default is the mean because sums grow with the channels.

    As published, this trains the student's trunk in a preparation, and is left out when the other objectives come.

    Raises:
        ValueError: there is no teacher, a network does not tell what enters its first stage, or the two do not have the
            same channels at every stage.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        compat: Literal["paper"] | None = None,  # a sum over a matrix's entries as there; null: their mean
        when: Literal["before", "beside", "both"] = "before",  # or beside the other objectives, or both
    ) -> None:
        super().__init__()
        self.only_prepares, self.prepares = when == "before", when != "beside"
        if teacher is None:
            raise ValueError("fsp compares stages with a teacher's, and none is named")
        ours, theirs = _channels("student", student), _channels("teacher", teacher)
        if ours != theirs:
            raise ValueError(
                "fsp compares channels with channels, so both networks must have the same ones from the first stage's "
                f"input on; got a student with {ours} and a teacher with {theirs}. Change the student's width, or take "
                "an objective that projects, such as ab"
            )
        self.compat = compat

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's stem and maps."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            squares = [(ours - theirs).square() for ours, theirs in zip(_flow(student), _flow(teacher), strict=True)]
            losses = [item.sum() / len(item) if self.compat else item.mean() for item in squares]
            return Outcome(torch.stack(losses).sum())

    def preparation(self) -> Objective | None:
        """The student's trunk is trained by this alone first, if so asked."""
        return self if self.prepares else None


def _channels(name: str, spec: Spec) -> list[int]:
    """Of what enters the first stage, and of every stage."""
    if spec.stem is None or not spec.maps:
        raise ValueError(
            f"fsp compares stages from the first one's input on, and the {name}'s encoder does not tell "
            f"{'what enters it' if spec.maps else 'any map'}; take one that does, such as convnet"
        )
    return [size[0] for size in (spec.stem, *spec.maps)]


def _flow(features: Features) -> list[Float[Tensor, "batch _ _"]]:
    """One matrix for every two stages in a row, as a product of matrices over places."""
    assert features.stem is not None
    found = []
    for lower, upper in pairwise((features.stem, *features.maps)):
        first, second = (item.flatten(2) for item in meet(widen(lower), widen(upper)))
        found.append(first @ second.mT / first.shape[2])
    return found
