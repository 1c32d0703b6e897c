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
    """Matches how the channels of consecutive stages correlate in the student and in the teacher.

    A sample's matrix for two consecutive stages holds, for every channel of one and every channel of the other, the
    mean over places of their product (eq. 1). The input of the first stage counts as a stage. If the two differ in
    size, the larger is average-pooled. The loss is the squared difference of the student's and the teacher's matrices
    (eq. 2), a mean over the batch and a matrix's entries and a sum over matrices, as in the published code, with its
    weight 50. `compat: paper` sums over entries; the default is the mean, because sums grow with the channels.

    As published, it trains the student's trunk in a preparation phase and is left out of the main phase.

    Raises:
        ValueError: there is no teacher, an encoder does not return the input of its first stage, or the two networks
            differ in channels at some stage.
    """

    needs_alignment = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        compat: Literal["paper"] | None = None,  # sum over a matrix's entries, as in the paper; null: mean
        when: Literal["before", "beside", "both"] = "before",  # before the main phase, within it, or both
    ) -> None:
        super().__init__()
        self.only_prepares, self.prepares = when == "before", when != "beside"
        if teacher is None:
            raise ValueError("fsp compares stages with a teacher's, and none is named")
        ours, theirs = _channels("student", student), _channels("teacher", teacher)
        if ours != theirs:
            raise ValueError(
                "fsp compares channel by channel, so both networks need the same channels at the first stage's input "
                f"and at every stage; got a student with {ours} and a teacher with {theirs}. Change the student's "
                "width, or use an objective that projects, such as ab"
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
        """This objective trains the student's trunk alone first, unless `when` is beside."""
        return self if self.prepares else None


def _channels(name: str, spec: Spec) -> list[int]:
    """The number of channels at the first stage's input and at every stage."""
    if spec.stem is None or not spec.maps:
        raise ValueError(
            f"fsp compares the first stage's input and all stages, and the {name}'s encoder does not return "
            f"{'that input' if spec.maps else 'any map'}; use one that does, such as convnet"
        )
    return [size[0] for size in (spec.stem, *spec.maps)]


def _flow(features: Features) -> list[Float[Tensor, "batch _ _"]]:
    """One matrix for every two consecutive stages, computed as a matrix product over places."""
    assert features.stem is not None
    matrices = []
    for lower, upper in pairwise((features.stem, *features.maps)):
        first, second = (item.flatten(2) for item in meet(widen(lower), widen(upper)))
        matrices.append(first @ second.mT / first.shape[2])
    return matrices
