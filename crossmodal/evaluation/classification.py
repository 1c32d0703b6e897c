"""Classes read off a frozen embedding, or given by the network's own classifier."""

from collections.abc import Iterator
from dataclasses import dataclass

from crossmodal.evaluation import Evaluation, Metric, Network, Pairs
from crossmodal.metrics import neighbours, probe
from crossmodal.metrics.accuracy import accuracy


@dataclass(frozen=True)
class Classification(Evaluation):
    """Accuracy of nearest neighbours, a linear probe, and the network's own classifier."""

    neighbours: int = 20  # training pairs that vote in kNN

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")

    def metrics(self) -> tuple[Metric, ...]:
        """kNN, linear probe and classifier."""
        return (
            Metric("knn", "kNN", needs=("labels",)),
            Metric("probe", "linear probe", needs=("labels",)),
            Metric("classifier", "own classifier", needs=("labels", "classifier")),
        )

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The share of the largest class."""
        return {metric.name: pairs.majority for metric in self.metrics()}

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Accuracy on the test pairs that have a label."""
        if not pairs.classes:
            return {}
        learn, judge = pairs.labels
        train, test, known = network.train.embedding, network.test.embedding, learn >= 0
        answers = {
            "knn": neighbours.classify(train[known], learn[known], test, neighbours=self.neighbours),
            "probe": probe.linear_probe(train[known], learn[known], test, len(pairs.classes)),
        }
        if "classifier" in network.provides(pairs):
            assert network.test.logits is not None
            answers["classifier"] = network.test.logits.argmax(1)
        return {name: accuracy(answer, judge) for name, answer in answers.items()}

    def notes(self, pairs: Pairs) -> Iterator[str]:
        """Fewer labelled training pairs than neighbours."""
        if (known := int((pairs.labels[0] >= 0).sum())) < self.neighbours:
            yield f"neighbours is {self.neighbours}, but only {known} training pairs have labels, so all of them vote"
