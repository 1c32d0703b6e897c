"""Classes read off a frozen embedding, or given by the network's own classifier."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from crossmodal.evaluation import Evaluation, Metric, Network, Pairs
from crossmodal.metrics import neighbours, probe
from crossmodal.metrics.intervals import Totals
from crossmodal.metrics.segmentation import confusion

SHOWN = 50  # classes at most in a bar chart


@dataclass(frozen=True)
class Classification(Evaluation):
    """Accuracy of nearest neighbours, a linear probe, and the network's own classifier."""

    neighbours: int = 20  # training pairs that vote in kNN

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")

    def metrics(self) -> tuple[Metric, ...]:
        """kNN, linear probe, also as the mean of the classes' accuracies (balanced), and classifier."""
        return (
            Metric("knn", "kNN", needs=("labels",)),
            Metric("probe", "linear probe", needs=("labels",)),
            Metric("probe.balanced", "linear probe, balanced", needs=("labels",)),
            Metric("classifier", "own classifier", needs=("labels", "classifier")),
        )

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The share of the largest class; balanced, one over the number of classes."""
        judged = pairs.labels[1]
        level = {metric.name: pairs.majority for metric in self.metrics()}
        return level | {"probe.balanced": 1 / len(judged[judged >= 0].unique())}

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Accuracy on the test pairs that have a label."""
        if not pairs.classes:
            return {}
        learn, judge = pairs.labels
        train, test, known = network.train.embedding, network.test.embedding, learn >= 0
        if not known.all():  # else a copy would take as much memory again
            train, learn = train[known], learn[known]
        answers = {
            "knn": neighbours.classify(train, learn, test, neighbours=self.neighbours),
            "probe": probe.linear_probe(train, learn, test, len(pairs.classes), device=pairs.device),
        }
        if "classifier" in network.provides(pairs):
            assert network.test.logits is not None
            answers["classifier"] = network.test.logits.argmax(1)
        totals = {name: Totals.accuracy(answer, judge) for name, answer in answers.items()}
        totals["probe.balanced"] = Totals.balanced((answers["probe"] == judge).double(), judge, len(pairs.classes))
        counts = confusion(answers["probe"], judge, len(pairs.classes))
        network.artefacts.totals.update(totals)
        network.artefacts.confusions["linear probe"] = counts
        if 2 < len(pairs.classes) <= SHOWN:
            recall = (counts.diagonal() / counts.sum(1)).tolist()
            network.artefacts.values["accuracy of the linear probe by class"] = {
                name: value for name, value in zip(pairs.classes, recall, strict=True) if not math.isnan(value)
            }
        return {name: each() for name, each in totals.items()}

    def notes(self, pairs: Pairs) -> Iterator[str]:
        """Fewer labelled training pairs than neighbours."""
        if (known := int((pairs.labels[0] >= 0).sum())) < self.neighbours:
            yield f"neighbours is {self.neighbours}, but only {known} training pairs have labels, so all of them vote"
