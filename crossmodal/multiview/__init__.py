"""The catalogue of multiview objectives, which pretrain encoders: one file per method."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.multiview._base import Multiview as Multiview
    from crossmodal.multiview._base import Pairings as Pairings
    from crossmodal.multiview._base import Views as Views
    from crossmodal.multiview._base import answering as answering
    from crossmodal.multiview._base import everyone as everyone
    from crossmodal.multiview._base import scale_of as scale_of

__getattr__ = lazily(__name__, _base=("Pairings", "Multiview", "Views", "answering", "everyone", "scale_of"))
