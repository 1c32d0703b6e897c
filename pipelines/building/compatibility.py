"""Checks that a network gets the inputs it was trained on."""

from pathlib import Path

import torch

from crossmodal import export
from modalities import MODALITIES, CropBox, Modality
from modalities.common.random import generator
from modalities.synthetic.scene import draw_scene
from pipelines.config import ConfigError


def refuse_other_view(trained: Modality, given: Modality, key: str) -> None:
    """Refuses a view whose modality, size, units or normalisation differ from those the teacher was trained on.

    Raises:
        ConfigError: names what differs.
    """
    if type(trained) is not type(given) or trained.shape != given.shape:
        raise ConfigError(
            [
                f"{key}.view: the teacher was trained on {type(trained).__name__} of shape {trained.shape}, "
                f"the view gives {type(given).__name__} of shape {given.shape}; give it a view of its own"
            ]
        )
    if not torch.equal(_sight(trained), _sight(given)):
        raise ConfigError([
            f"{key}.view: the teacher was trained on {type(trained).__name__} with {_differences(trained, given)}, so "
            "it would get other numbers for the same scene; give it a view of its own"
        ])  # fmt: skip


def describe_other_view(weights: Path, given: Modality) -> str:
    """A suffix to an exported model's name: what it was trained on, if the view gives something else.

    Raises:
        ExportError: its card cannot be read, or was written by another version.
    """
    folder = weights.parent
    if weights.name != export.WEIGHTS or not (folder / export.CARD).is_file():
        return ""  # a published file does not record its view
    card = export.read_card(folder)  # only the card: building the model would draw weights
    try:
        trained = MODALITIES.get(card.modality)(**card.modality_options)
    except (TypeError, LookupError) as error:
        raise export.ExportError(f"{folder / export.CARD} names something unknown to this version: {error}") from error
    if type(trained) is not type(given):
        return f", trained on {type(trained).__name__} (here {type(given).__name__})"
    if torch.equal(_sight(trained), _sight(given)):
        return ""
    return f", trained on {type(given).__name__} with {_differences(trained, given)}"


def _differences(trained: Modality, given: Modality) -> str:
    theirs, ours = vars(trained), vars(given)
    return ", ".join(f"{name}={theirs[name]!r} (here {ours[name]!r})" for name in ours if theirs[name] != ours[name])


def _sight(modality: Modality) -> torch.Tensor:
    """The network's input for one fixed synthetic scene, wide so that the fit of pictures matters."""
    signal = modality.render(draw_scene(generator("sight"), width=96))
    return modality.normalise(modality.adapt(signal, CropBox())[None])
