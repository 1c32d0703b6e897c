"""Checks that a network gets the inputs it was trained on."""

import dataclasses
from pathlib import Path

import torch

from crossmodal import models
from crossmodal.weights import find_weights
from modalities import MODALITIES, CropBox, Modality
from modalities.common.random import generator
from modalities.synthetic.scene import draw_scene
from pipelines.config import ConfigError, at, to_dict, to_plain
from pipelines.schemas.common import StudentConfig


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


def check_start(student: StudentConfig, given: Modality, *, is_frozen: bool) -> models.Card | None:
    """Refuses a classifier's encoder and view that contradict the trained network it starts from.

    Args:
        student: its weights may be of an exported model, whose card is compared.
        given: what the view gives.
        is_frozen: the network does not change. Otherwise it may start from another modality or size, which is printed
            later (`describe_other_view`), but not from another range of the same one.

    Returns:
        The card; None for random weights and published files.

    Raises:
        ConfigError: names what differs, with both values.
    """
    if student.weights is None:
        return None
    with at("student.weights"):
        weights = find_weights(student.weights)
        found = _read_trained(weights)
    if found is None:
        return None
    card, trained = found
    ours = to_dict(student.network, whole=True)
    theirs = {"name": card.encoder, **to_plain(card.encoder_options)}
    if ours["name"] != theirs["name"]:
        raise ConfigError([f"student.encoder: {student.weights} is a {theirs['name']}, got {ours['name']}"])
    unlike = [f"{name}={theirs[name]!r} (here {ours[name]!r})" for name in ours
              if name in theirs and theirs[name] != ours[name] and name not in ("dropout", "drop_path")]  # fmt: skip
    if unlike:
        raise ConfigError([f"student.encoder: {student.weights} is a {card.encoder} with {', '.join(unlike)}; give the "
                           "same options"])  # fmt: skip
    is_like = type(trained) is type(given) and trained.shape == given.shape
    if (is_like or is_frozen) and (told := describe_other_view(weights, given)):
        raise ConfigError([f"student.view: {student.weights} was{told.removeprefix(',')}, so it would get other "
                           f"numbers for the same scene; give views.{student.view} the same options"])  # fmt: skip
    return card


def describe_other_view(weights: Path, given: Modality) -> str:
    """A suffix to an exported model's name: what it was trained on, if the view gives something else.

    Raises:
        ExportError: its card cannot be read, or was written by another version.
    """
    found = _read_trained(weights)
    if found is None:
        return ""  # a published file does not record its view
    _, trained = found
    if type(trained) is not type(given):
        return f", trained on {type(trained).__name__} (here {type(given).__name__})"
    if torch.equal(_sight(trained), _sight(given)):
        return ""
    return f", trained on {type(given).__name__} with {_differences(trained, given)}"


def _read_trained(weights: Path) -> tuple[models.Card, Modality] | None:
    """The card and the view of an exported model; None for other files of weights.

    Raises:
        ExportError: the card cannot be read, or was written by another version.
    """
    folder = weights.parent
    if weights.name != models.WEIGHTS or not (folder / models.CARD).is_file():
        return None
    card = models.read_card(folder)  # only the card: building the model would draw weights
    try:
        return card, MODALITIES.get(card.modality)(**card.modality_options)
    except (TypeError, LookupError) as error:
        raise models.ExportError(f"{folder / models.CARD} names something unknown to this version: {error}") from error


def _differences(trained: Modality, given: Modality) -> str:
    theirs, ours = vars(trained), vars(given)
    return ", ".join(f"{name}={theirs[name]!r} (here {ours[name]!r})" for name in ours if theirs[name] != ours[name])


def _sight(modality: Modality) -> torch.Tensor:
    """The network's input for one fixed synthetic scene, wide so that the fit of pictures matters."""
    if modality.bits is not None:  # rounding is no difference
        modality = dataclasses.replace(modality, bits=None)  # type: ignore[type-var]
    signal = modality.render(draw_scene(generator("sight"), width=96))
    return modality.normalise(modality.adapt(signal, CropBox())[None])
