"""Published networks by name: the files, architecture, input and licence that a name in a config stands for."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.published.finding import find as find
    from crossmodal.published.names import WeightsError as WeightsError
    from crossmodal.published.names import check_name as check_name
    from crossmodal.published.names import is_name as is_name
    from crossmodal.published.source import Source as Source

__getattr__ = lazily(__name__, finding=("find",), names=("WeightsError", "check_name", "is_name"), source=("Source",))
