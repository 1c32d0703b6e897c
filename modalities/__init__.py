"""Layer 1, modalities: bytes <-> physical units <-> what an encoder sees. No network, no loss."""

from modalities._catalogue import Catalogue

MODALITIES = Catalogue("modalities", "Modality", "modality")
