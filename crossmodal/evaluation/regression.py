"""Numbers that come with the pairs, read off a frozen embedding."""

from collections.abc import Iterator
from dataclasses import dataclass

from crossmodal.evaluation import Evaluation, Metric, Network, Pairs, Targets
from crossmodal.metrics import neighbours
from crossmodal.metrics.intervals import Totals


@dataclass(frozen=True)
class Regression(Evaluation):
    """Mean error of numbers in the pairs' JSON, such as a camera's position; the nearest training pairs answer."""

    fact: str  # name of the numbers in the pairs' JSON, where they are a list
    columns: tuple[int, ...]  # positions of the numbers that are predicted, from 0
    unit: str = ""  # of the numbers, for the report
    neighbours: int = 5  # training pairs whose mean is the answer

    def __post_init__(self) -> None:
        if not self.columns or min(self.columns) < 0:
            raise ValueError(f"columns must be one or more numbers of at least 0, got {[*self.columns]}")
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")

    @property
    def _name(self) -> str:
        return f"error.{self.fact}"

    def metrics(self) -> tuple[Metric, ...]:
        """The error, in the unit of the numbers."""
        unit = f", {self.unit}" if self.unit else ""
        return (Metric(self._name, f"error of {self.fact}{unit}", higher_is_better=False, percent=False),)

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The error of the training pairs' mean as the answer to all."""
        known, truth = pairs.facts(self.fact, self.columns)
        return {self._name: (known.mean(0) - truth).norm(dim=1).mean().item()}

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Mean distance between the truth and the mean of the nearest training pairs."""
        known, truth = pairs.facts(self.fact, self.columns)
        answer = neighbours.regress(network.train.embedding, known, network.test.embedding, neighbours=self.neighbours)
        totals = Totals.mean((answer - truth).norm(dim=1))
        network.artefacts.totals[self._name] = totals
        return {self._name: totals()}

    def notes(self, pairs: Pairs) -> Iterator[str]:
        """Fewer training pairs than neighbours."""
        if len(pairs.train) < self.neighbours:
            yield f"neighbours is {self.neighbours}, so the answer is the mean of all {len(pairs.train)} training pairs"

    def targets(self, pairs: Pairs) -> Targets:
        """The numbers themselves."""
        return Targets(self.fact, pairs.facts(self.fact, self.columns)[0])
