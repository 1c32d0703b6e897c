"""Layer 2: paired data, networks, objectives and metrics. It uses modalities only through their interface.

`crossmodal.load(path)` opens a trained encoder: see `crossmodal.models.Model`; `save` and `push` share one.
"""

from typing import TYPE_CHECKING

import modalities
from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.models import Model as Model
    from crossmodal.models import load as load
    from crossmodal.models import push as push
    from crossmodal.models import save as save

if not hasattr(modalities, "MODALITIES"):
    raise ImportError(
        f"crossmodal needs the package 'modalities' it was installed with, but {modalities.__file__} is another one; "
        "install crossmodal-transfer into an environment of its own"
    )

SOURCES = modalities.Catalogue("crossmodal.sources", "Source", "source")
ENCODERS = modalities.Catalogue("crossmodal.encoders", "Encoder", "encoder")
MULTIVIEW = modalities.Catalogue("crossmodal.multiview", "Multiview", "multiview objective")
OBJECTIVES = modalities.Catalogue("crossmodal.objectives", "Objective", "objective")
EVALUATIONS = modalities.Catalogue("crossmodal.evaluation", "Evaluation", "evaluation")

__getattr__ = lazily(__name__, models=("Model", "load", "push", "save"))
