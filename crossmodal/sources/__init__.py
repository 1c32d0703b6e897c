"""The catalogue of sources: each file reads one kind of paired data set."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.sources._base import Numbered as Numbered
    from crossmodal.sources._base import Pair as Pair
    from crossmodal.sources._base import Source as Source
    from crossmodal.sources._base import SourceError as SourceError

__getattr__ = lazily(__name__, _base=("Numbered", "Pair", "Source", "SourceError"))
