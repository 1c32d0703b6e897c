"""Finds the files of a published network by its name."""

import importlib

from crossmodal.published.names import FORMS, WeightsError, check_name, prefix_of
from crossmodal.published.source import Source

_ROOMS = {  # prefix -> module with `find`, extra in setup.py
    "timm/": ("timm", "timm"),
    "hf-hub:": ("hub_models", "hub"),
    "open_clip:": ("open_clip", "open_clip"),
    "transformers:": ("transformers", "transformers"),
    "torchvision:": ("torchvision", ""),
    "package:": ("packages", "lite0"),
}
assert _ROOMS.keys() == FORMS.keys()
_EXTRAS = {"timm": "timm", "open_clip": "open_clip", "transformers": "transformers", "huggingface_hub": "hub"}


def find(weights: str, *, download: bool = False) -> Source | None:
    """The network that a name stands for; None for paths.

    Args:
        weights: as in a config: "timm/MODEL.TAG", "hf-hub:ORGANISATION/NAME" and so on, or a path.
        download: fetch what is not on this machine.

    Raises:
        WeightsError: no library knows the name, its files are not on this machine, or they cannot be fetched.
    """
    check_name(weights)
    prefix = prefix_of(weights)
    if prefix is None:
        return None
    room, extra = _ROOMS[prefix]
    try:
        module = importlib.import_module(f"crossmodal.published.{room}")
        source: Source = module.find(weights, download=download)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("crossmodal"):
            raise
        extra = _EXTRAS.get((error.name or "").partition(".")[0], extra)  # a hub's repository may be of any library
        raise WeightsError(f"{weights} needs the package {error.name!r}, which is not installed; "
                           f"pip install 'crossmodal-transfer[{extra}]'") from error  # fmt: skip
    return source
