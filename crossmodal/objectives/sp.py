"""Similarity-preserving distillation (Tung, Mori 2019, https://arxiv.org/abs/1907.09682)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.projections import widen
from crossmodal.objectives.common.relations import relate


class SP(Objective):
    """Squared distance between a sample's similarities to the batch in both networks, mean over the batch; 0 to 4.

    A sample's similarities are the dot products of its features with those of all samples on all ranks, scaled to unit
    length. Only relations between samples are compared, so sizes and modalities may differ.

    By default the features are embeddings: every encoder has them, and later uses rely on them. `of: map` takes the
    last map, as published: samples are then similar if they show the same at the same place, each network within its
    own view.

    The paper and the published code divide by the batch twice: the published weight 3000 at batch 64 equals 46.9 here.

    Raises:
        ValueError: there is no teacher, or a network has no map for `of: map`.
    """

    relates_pairs = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        of: Literal["embedding", "map"] = "embedding",  # features to compare; map: the last map, as published
    ) -> None:
        super().__init__()
        if teacher is None:
            raise ValueError("sp compares similarities of samples with a teacher's, and none is named")
        if of == "map" and not (student.maps and teacher.maps):
            raise ValueError(
                f"sp: of: map needs maps on both sides, but the student has {len(student.maps)} and the teacher "
                f"{len(teacher.maps)}; set of: embedding"
            )
        self.of = of

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            difference = self._similarities(student) - self._similarities(teacher)
            return Outcome(difference.square().sum(1).mean())

    def _similarities(self, features: Features) -> Float[Tensor, "batch all"]:
        rows = features.embedding if self.of == "embedding" else features.maps[-1].flatten(1)
        return F.normalize(relate(widen(rows)), dim=1)
