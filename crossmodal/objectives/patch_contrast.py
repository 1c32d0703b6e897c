"""Contrast between places: a place of the student's map finds its own place, or its own picture, of the teacher."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossmodal.distributed import gather, ranks
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective, Outcome
from crossmodal.objectives.common.heads import MapHead
from crossmodal.objectives.common.maps import pair_grids, resize_to
from crossmodal.objectives.common.normalisation import ChannelNormalisation
from crossmodal.objectives.common.projections import widen
from modalities.common.random import uniform


class PatchContrast(Objective):
    """InfoNCE from places of the student's maps to the teacher, over all pictures of the batch on all ranks.

    `against: places` samples `places` random places in every picture, the same ones on both sides; the negatives are
    the other sampled places of the same picture and of all others. `against: pictures` compares every sampled place
    with the teacher's embeddings of whole pictures, local with global features as in Deep InfoMax (Hjelm et al. 2019,
    https://arxiv.org/abs/1808.06670, section 3); the negatives are the other pictures.

    The student's map is resized to the teacher's grid and passes a head; the teacher is normalised as in `patch`.
    The loss is the mean cross-entropy over the sampled places and the pairs of maps; at chance it is the logarithm of
    the number of candidates.

    Raises:
        ValueError: there is no teacher, an encoder has no maps, a chosen map does not exist, or an option is invalid.
    """

    needs_alignment = True
    relates_pairs = True
    needs_calibration = True

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        pairs: int,
        *,
        against: Literal["places", "pictures"] = "places",  # the teacher's candidates: places, or whole pictures
        places: int = 16,  # random places per picture and map
        temperature: float = 0.1,  # divides the cosines
        head: Literal["linear", "mlp"] = "linear",  # from the student's channels to the teacher's
        dim: int | None = 64,  # number of principal components of the teacher's features; null: all
        # map indices [student, teacher] to compare; null: the teacher's last maps on its two coarsest grids
        maps: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.maps = pair_grids("patch_contrast", student, teacher, maps)
        assert teacher is not None
        if places < 1 or not 0 < temperature < math.inf:
            raise ValueError(
                "patch_contrast needs places of at least 1 and a finite temperature above 0, "
                f"got places={places} and temperature={temperature}"
            )
        self.against, self.places, self.temperature = against, places, temperature
        self.grids = [teacher.maps[other][1:] for _, other in self.maps]
        channels = [teacher.maps[other][0] if against == "places" else teacher.dim for _, other in self.maps]
        self.targets = [ChannelNormalisation(each, "whiten", dim) for each in channels]
        self.normalisations = nn.ModuleList(self.targets)
        self.heads = nn.ModuleList(
            MapHead(student.maps[mine][0], target.dim, head)
            for (mine, _), target in zip(self.maps, self.targets, strict=True)
        )

    def calibrate(self, teacher: Features) -> None:
        """Adds a batch to the statistics of the teacher's maps or embeddings."""
        for (_, other), target in zip(self.maps, self.targets, strict=True):
            target.add(teacher.maps[other] if self.against == "places" else teacher.embedding)

    def finish_calibration(self) -> None:
        """Computes the normalisation of each map."""
        for target in self.targets:
            target.finish()

    def forward(self, student: Features, teacher: Features | None, batch: Batch) -> Outcome:
        """The loss; gradient reaches the student's maps and the heads."""
        assert teacher is not None
        with torch.autocast(student.embedding.device.type, enabled=False):
            losses = [self._contrast(number, student, teacher, batch) for number in range(len(self.maps))]
        return Outcome(torch.stack(losses).mean())

    def _contrast(self, number: int, student: Features, teacher: Features, batch: Batch) -> Float[Tensor, ""]:
        mine, other = self.maps[number]
        places = self._draw(batch, number)
        ours = self.heads[number](resize_to(widen(student.maps[mine]), self.grids[number]))
        theirs = _take(teacher.maps[other], places) if self.against == "places" else teacher.embedding
        queries = F.normalize(_take(ours, places), dim=1)
        candidates = F.normalize(self.targets[number](theirs), dim=1)
        own = torch.arange(len(candidates), device=queries.device).repeat_interleave(len(queries) // len(candidates))
        cosines = queries @ gather(candidates).T
        return F.cross_entropy(cosines / self.temperature, own + ranks()[0] * len(candidates))

    def _draw(self, batch: Batch, number: int) -> Int[Tensor, "batch places"]:
        """Random different places of each picture; they depend on the step's seed and the pair alone."""
        place = torch.arange(math.prod(self.grids[number]), device=batch.index.device)
        order = uniform(batch.seed + number, batch.index[:, None], place).argsort(dim=1, stable=True)
        return order[:, : self.places]


def _take(item: Float[Tensor, "batch dim height width"], places: Int[Tensor, "batch places"]) -> Tensor:
    """The vectors at some places of every picture, as rows [batch * places, dim]."""
    rows = item.flatten(2).transpose(1, 2)
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2])).flatten(0, 1)
