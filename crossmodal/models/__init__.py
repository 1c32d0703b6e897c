"""Trained encoders: their card, their folder, and their use."""

from typing import TYPE_CHECKING

from modalities.common.lazy import lazily

if TYPE_CHECKING:
    from crossmodal.models.card import CARD as CARD
    from crossmodal.models.card import WEIGHTS as WEIGHTS
    from crossmodal.models.card import Card as Card
    from crossmodal.models.card import ExportError as ExportError
    from crossmodal.models.card import Head as Head
    from crossmodal.models.card import digest as digest
    from crossmodal.models.card import find_model as find_model
    from crossmodal.models.card import name_fit as name_fit
    from crossmodal.models.card import read_card as read_card
    from crossmodal.models.files import load as load
    from crossmodal.models.files import load_model as load_model
    from crossmodal.models.files import save_model as save_model
    from crossmodal.models.hub import HubError as HubError
    from crossmodal.models.model import Model as Model
    from crossmodal.models.model import Signals as Signals
    from crossmodal.models.sharing import push as push
    from crossmodal.models.sharing import save as save

__getattr__ = lazily(
    __name__,
    card=("CARD", "WEIGHTS", "Card", "ExportError", "Head", "digest", "find_model", "name_fit", "read_card"),
    files=("load", "load_model", "save_model"),
    hub=("HubError",),
    model=("Model", "Signals"),
    sharing=("push", "save"),
)
