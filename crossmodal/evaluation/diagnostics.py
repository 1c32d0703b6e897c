"""Why an encoder falls behind, by the geometry of its embedding; sources stand in `crossmodal.metrics.diagnostics`."""

from dataclasses import dataclass

import torch

from crossmodal.data.views import Crop
from crossmodal.evaluation import Evaluation, Metric, Network, Pairs
from crossmodal.evaluation.common.diagnosis import diagnose_encoder
from crossmodal.metrics import diagnostics, few_labels


@dataclass(frozen=True)
class Diagnostics(Evaluation):
    """Alignment, uniformity and discrimination of test pairs and two random crops of each; the best kNN."""

    per_class: int = 50  # test pairs of each class; where there are no classes, ten times as many in all
    scale: tuple[float, float] = (0.2, 1.0)  # smallest and largest share of the area that a crop keeps
    ratio: tuple[float, float] = (
        0.8,
        1.25,
    )  # smallest and largest width over height of a crop, over the image's
    flip: float = 0.5  # probability that a crop is mirrored left to right
    shift: float = 0.0  # how far a crop may overhang the image, as a share of its sides; zero-padded

    def __post_init__(self) -> None:
        if self.per_class < 2:
            raise ValueError(f"per_class must be at least 2, got {self.per_class}")
        self._crop()  # which refuses what is out of range

    def _crop(self) -> Crop:
        return Crop(self.scale, self.ratio, self.flip, shift=self.shift)

    def metrics(self) -> tuple[Metric, ...]:
        """Squared distances are between unit vectors, from 0 to 4."""
        return (
            Metric("alignment", "alignment", higher_is_better=False, percent=False),
            Metric("uniformity", "uniformity", higher_is_better=False, percent=False),
            Metric("instance", "instances told apart"),
            Metric("intra_class", "alignment in classes", higher_is_better=False, percent=False, needs=("labels",)),
            Metric("best_knn", "best kNN", needs=("labels",)),
        )

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The share of the largest class, and that of one pair among those picked."""
        found = {"instance": 1 / len(self._pick(pairs))}
        return found | {"best_knn": pairs.majority} if pairs.classes else found

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """The geometry of the picked test pairs; kNN of all test pairs with labels."""
        crop = self._crop()
        found = diagnose_encoder(
            network.encoder, network.view, pairs.test, self._pick(pairs), crop=crop, device=pairs.device
        )
        if pairs.classes:
            learn, judge = pairs.labels
            train, test = network.train.embedding[learn >= 0], network.test.embedding[judge >= 0]
            found["best_knn"] = diagnostics.best_neighbours(train, learn[learn >= 0], test, judge[judge >= 0])
        return found

    def _pick(self, pairs: Pairs) -> list[int]:
        labels, count = pairs.labels[1], self.per_class
        if not pairs.classes:
            labels, count = torch.zeros_like(labels), 10 * count
        return few_labels.pick_labelled(labels, count, 0)
