"""The catalogue of evaluations: a file for each group of metrics."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.evaluation._base import Artefacts as Artefacts
    from crossmodal.evaluation._base import Evaluation as Evaluation
    from crossmodal.evaluation._base import Kind as Kind
    from crossmodal.evaluation._base import Metric as Metric
    from crossmodal.evaluation._base import Need as Need
    from crossmodal.evaluation._base import Network as Network
    from crossmodal.evaluation._base import Pairs as Pairs
    from crossmodal.evaluation._base import Point as Point
    from crossmodal.evaluation._base import Subject as Subject
    from crossmodal.evaluation._base import Targets as Targets

__getattr__ = lazily(
    __name__,
    _base=("Artefacts", "Evaluation", "Kind", "Metric", "Need", "Network", "Pairs", "Point", "Subject", "Targets"),
)
