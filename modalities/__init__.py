"""Layer 1, modalities: bytes <-> physical units <-> what an encoder sees. No network, no loss."""

from typing import TYPE_CHECKING

from modalities.common.catalogue import Catalogue
from modalities.common.lazy import lazily
from modalities.common.moved import name_moved_modules

if TYPE_CHECKING:
    from modalities._base import CropBox as CropBox
    from modalities._base import DecodeError as DecodeError
    from modalities._base import Modality as Modality

MODALITIES = Catalogue("modalities", "Modality", "modality")
__getattr__ = lazily(__name__, _base=("DecodeError", "Modality", "CropBox"))
name_moved_modules()
