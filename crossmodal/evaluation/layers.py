"""Classes of whole pictures, read off the map of each stage."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.reader import sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.evaluation import Evaluation, Metric, Network, Pairs, Point
from crossmodal.metrics import probe
from crossmodal.metrics.accuracy import accuracy

BATCH = 256  # pairs at a time


@dataclass(frozen=True)
class Layers(Evaluation):
    """Accuracy of a linear probe on the average-pooled map of each stage; a stage that a network lacks is left out."""

    maps: tuple[int, ...] = (0, 1, 2, 3)  # stages, from 0
    pool: int = 1  # places to a side that each map is averaged to; 1: its mean

    def __post_init__(self) -> None:
        if not self.maps or min(self.maps) < 0 or len({*self.maps}) < len(self.maps):
            raise ValueError(f"maps must be one or more different stages from 0, got {[*self.maps]}")
        if self.pool < 1:
            raise ValueError(f"pool must be at least 1, got {self.pool}")

    def metrics(self) -> tuple[Metric, ...]:
        """One accuracy for each stage."""
        curve = "accuracy of a linear probe"
        return tuple(
            Metric(f"layer.{stage}", f"probe of stage {stage}", needs=("labels",), point=Point(curve, "stage", stage))
            for stage in self.maps
        )

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The share of the largest class.

        Raises:
            ValueError: the students have fewer stages.
        """
        if "student" in pairs.subjects and max(self.maps) >= (stages := len(pairs.subjects["student"].spec.maps)):
            raise ValueError(f"maps must be stages of the students from 0 to {stages - 1}, got {max(self.maps)}")
        return {metric.name: pairs.majority for metric in self.metrics()}

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Accuracy on the test pairs that have a label."""
        stages = [stage for stage in self.maps if stage < len(network.encoder.spec.maps)]
        if not pairs.classes or not stages:
            return {}
        learn, judge = pairs.labels
        known = (learn >= 0).nonzero()[:, 0].tolist()
        train, test = (
            self._pooled(network, pairs, pairs.train, known, stages),
            self._pooled(network, pairs, pairs.test, [*range(len(judge))], stages),
        )
        return {
            f"layer.{stage}": accuracy(
                probe.linear_probe(rows, learn[known], others, len(pairs.classes), device=pairs.device), judge
            )
            for stage, rows, others in zip(stages, train, test, strict=True)
        }

    def notes(self, pairs: Pairs) -> Iterator[str]:
        """Maps that are smaller than what they are averaged to."""
        for kind, subject in pairs.subjects.items():
            small = [stage for stage in self.maps if stage < len(subject.spec.maps)
                     and min(subject.spec.maps[stage][1:]) < self.pool]  # fmt: skip
            if small:
                yield f"pool is {self.pool}, more than a side of the {kind}'s maps {', '.join(map(str, small))}"

    @torch.inference_mode()
    def _pooled(
        self, network: Network, pairs: Pairs, shards: Shards, indices: list[int], stages: list[int]
    ) -> list[Float[Tensor, "pairs _"]]:
        """Each stage's map, averaged to `pool` x `pool` places."""
        views, encoder = {"view": network.view}, network.encoder.to(pairs.device)
        rows: list[list[Tensor]] = [[] for _ in stages]
        for part in sweep_parts(shards, views, batch_size=BATCH, workers=pairs.workers, indices=indices):
            maps = encoder(to_batch(part, views, pairs.device).inputs["view"]).maps
            for found, stage in zip(rows, stages, strict=True):
                found.append(F.adaptive_avg_pool2d(maps[stage].float(), self.pool).flatten(1).cpu())
        return [torch.cat(each) for each in rows]
