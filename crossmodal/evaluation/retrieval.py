"""Retrieval across modalities: whether a pair's student side finds its teacher side among all test pairs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crossmodal.evaluation import Evaluation, Metric, Need, Network, Pairs
from crossmodal.metrics import retrieval
from crossmodal.metrics.intervals import Totals

ARROWS = {"to_teacher": "→ teacher", "to_student": "→ student"}


@dataclass(frozen=True)
class Retrieval(Evaluation):
    """Recall at k in both directions, through a linear map and in the space of each objective that has one."""

    at: tuple[int, ...] = (1, 5, 10)  # k of recall at k
    by_label: bool = True  # also count any item of the query's class as right, where pairs have classes

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 1 or len({*self.at}) < len(self.at):
            raise ValueError(f"at must be one or more different numbers of at least 1, got {[*self.at]}")

    def metrics(self) -> tuple[Metric, ...]:
        """A recall for each direction and k through the linear map."""
        return self.metrics_in(())

    def metrics_in(self, heads: Sequence[str]) -> tuple[Metric, ...]:
        """A recall for each space, direction and k, of the pair itself and of its class."""
        return tuple(
            Metric(f"{space}.{way}.{kind}@{k}", f"{kind}@{k} {arrow} ({space})", needs=_needs(space, kind))
            for space in ("map", *heads)
            for kind in self._kinds
            for way, arrow in ARROWS.items()
            for k in self.at
        )

    @property
    def _kinds(self) -> tuple[str, ...]:
        return ("R", "class-R") if self.by_label else ("R",)

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """Recall in a random order: k among all test pairs; of a class, by how many test pairs it has."""
        labels = pairs.labels[1] if self.by_label and pairs.classes else None
        found = dict[str, float]()
        for k in self.at:
            levels = {"R": min(1.0, k / len(pairs.test))}
            if labels is not None:
                levels["class-R"] = retrieval.chance_by_label(labels, k)
            found |= {f"{space}.{way}.{kind}@{k}": level for kind, level in levels.items()
                      for space in ("map", *pairs.heads) for way in ARROWS}  # fmt: skip
        return found

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Every recall in every space that the network shares with the teacher."""
        totals = dict(self._recalls(network, pairs))
        network.artefacts.totals.update(totals)
        return {name: each() for name, each in totals.items()}

    def _recalls(self, network: Network, pairs: Pairs) -> Iterator[tuple[str, Totals]]:
        labels = pairs.labels[1] if self.by_label and pairs.classes else None
        for space, (ours, theirs) in network.spaces.items():
            for way, (queries, gallery) in {"to_teacher": (ours, theirs), "to_student": (theirs, ours)}.items():
                for k, found in retrieval.hits(queries, gallery, at=self.at).items():
                    yield f"{space}.{way}.R@{k}", Totals.mean(found)
                if labels is not None:
                    for k, found in retrieval.hits_by_label(queries, gallery, labels, at=self.at).items():
                        yield f"{space}.{way}.class-R@{k}", Totals.mean(found)


def _needs(space: str, kind: str) -> tuple[Need, ...]:
    needs: list[Need] = ["teacher"]
    if space != "map":
        needs.append("heads")
    if kind != "R":
        needs.append("labels")
    return tuple(needs)
