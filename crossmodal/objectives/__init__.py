"""The catalogue of objectives: one file per method."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.objectives._base import Batch as Batch
    from crossmodal.objectives._base import Learner as Learner
    from crossmodal.objectives._base import Objective as Objective
    from crossmodal.objectives._base import Outcome as Outcome

__getattr__ = lazily(__name__, _base=("Batch", "Learner", "Objective", "Outcome"))
