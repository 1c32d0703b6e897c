"""Retrieval across modalities: whether a pair's student side finds its teacher side among all test pairs."""

from dataclasses import dataclass

from crossmodal.evaluation import Evaluation, Metric, Network, Pairs
from crossmodal.metrics import retrieval

SPACES = ("map", "heads")
ARROWS = {"to_teacher": "→ teacher", "to_student": "→ student"}


@dataclass(frozen=True)
class Retrieval(Evaluation):
    """Recall at k in both directions, through a linear map and in the space that the objective trained."""

    at: tuple[int, ...] = (1, 5, 10)  # k of recall at k; only a pair's own other side is right

    def __post_init__(self) -> None:
        if not self.at or min(self.at) < 1 or len({*self.at}) < len(self.at):
            raise ValueError(f"at must be one or more different numbers of at least 1, got {[*self.at]}")

    def metrics(self) -> tuple[Metric, ...]:
        """A recall for each space, direction and k."""
        return tuple(
            Metric(
                f"{space}.{way}.R@{k}",
                f"R@{k} {arrow} ({space})",
                needs=("teacher",) if space == "map" else ("teacher", "heads"),
            )
            for space in SPACES
            for way, arrow in ARROWS.items()
            for k in self.at
        )

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The share of k among all test pairs."""
        return {
            f"{space}.{way}.R@{k}": min(1.0, k / len(pairs.test)) for space in SPACES for way in ARROWS for k in self.at
        }

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Every recall in every space that the network shares with the teacher."""
        found = {}
        for space, (ours, theirs) in network.spaces.items():
            for way, (queries, gallery) in {"to_teacher": (ours, theirs), "to_student": (theirs, ours)}.items():
                for k, share in retrieval.recalls(queries, gallery, at=self.at).items():
                    found[f"{space}.{way}.R@{k}"] = share
        return found
