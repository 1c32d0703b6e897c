"""Whether a network is shown what it was trained to see."""

from pathlib import Path

import torch

from crossmodal import export
from modalities import MODALITIES, CropBox, Modality
from modalities.common.random import generator
from modalities.synthetic.scene import draw_scene
from pipelines.config import ConfigError


def refuse_other_view(trained: Modality, given: Modality, key: str) -> None:
    """A teacher must be shown what it was trained on: the same modality, size, units and normalisation.

    Raises:
        ConfigError: it is shown something else.
    """
    if type(trained) is not type(given) or trained.shape != given.shape:
        raise ConfigError(
            [
                f"{key}.view: the teacher was trained on {type(trained).__name__} of shape {trained.shape}, "
                f"the view gives {type(given).__name__} of shape {given.shape}; give it a view of its own"
            ]
        )
    if not torch.equal(_sight(trained), _sight(given)):
        raise ConfigError([f"{key}.view: the teacher was trained on {trained}, the view gives {given}, so that the "
                           "same scene would reach it as other numbers; give it a view of its own"])  # fmt: skip


def describe_other_view(weights: Path, given: Modality) -> str:
    """What an exported model was trained to see, to follow its name, where the view gives something else.

    Raises:
        ExportError: its card cannot be read, or is of another version.
    """
    folder = weights.parent
    if weights.name != export.WEIGHTS or not (folder / export.CARD).is_file():
        return ""  # a published file does not tell
    card = export.read_card(folder)  # no more of the model: to build it would draw weights
    try:
        trained = MODALITIES.get(card.modality)(**card.modality_options)
    except (TypeError, LookupError) as error:
        raise export.ExportError(f"{folder / export.CARD} asks for what this version does not have: {error}") from error
    if type(trained) is not type(given):
        return f", trained on {type(trained).__name__} (here {type(given).__name__})"
    if torch.equal(_sight(trained), _sight(given)):
        return ""
    theirs, ours = vars(trained), vars(given)
    differing = [f"{name}={theirs[name]!r} (here {ours[name]!r})" for name in ours if theirs[name] != ours[name]]
    return f", trained on {type(given).__name__} with {', '.join(differing)}"


def _sight(modality: Modality) -> torch.Tensor:
    """What a network is given of a scene, the same one every time."""
    signal = modality.render(draw_scene(generator("sight")))
    return modality.normalise(modality.adapt(signal, CropBox())[None])
