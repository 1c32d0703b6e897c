"""The card of an exported encoder: its architecture, and the preprocessing of its input."""

import difflib
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crossmodal import ENCODERS
from crossmodal.data.plain import build, parse
from crossmodal.encoders import Encoder, Spec
from modalities import MODALITIES

CARD, WEIGHTS = "model.json", "model.safetensors"


class ExportError(ValueError):
    """A folder does not hold a valid exported encoder."""


@dataclass(frozen=True)
class Head:
    """An objective whose projection heads map this encoder and its teacher into one space."""

    objective: str
    options: dict[str, Any]
    teacher: str  # name of the teacher it was trained with
    teacher_spec: Spec


@dataclass(frozen=True)
class Card:
    """The architecture of an encoder, and the preprocessing of its input."""

    encoder: str
    encoder_options: dict[str, Any]
    shape: tuple[int, ...]
    classes: list[str]  # names of the logits, in order; empty: no classifier
    modality: str
    modality_options: dict[str, Any]
    heads: dict[str, Head] = field(default_factory=dict)
    temperature: float | None = None  # divides the logits to calibrate probabilities; None: not calibrated
    weights: str = ""  # sha256 of the weights; empty in folders of earlier versions, which are not checked

    def build(self, classes: int | None = None) -> Encoder:
        """The architecture with new weights, and with `classes` logits if given."""
        count = len(self.classes) if classes is None else classes
        return ENCODERS.get(self.encoder)(self.shape, count, **self.encoder_options)

    def build_from(self, encoder: Encoder, classes: int) -> Encoder:
        """A copy of `encoder`, which this card describes, with a new classifier."""
        copy = self.build(classes)
        classifier = f"trunk.{copy.classifier}"
        copied = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith(classifier)}
        left = copy.load_state_dict(copied, strict=False)
        assert all(name.startswith(classifier) for name in left.missing_keys) and not left.unexpected_keys
        return copy


def find_model(path: str | Path) -> Path:
    """The folder of an exported encoder: `path` itself, or `model` in the folder of a run.

    Raises:
        ExportError: there is no exported encoder.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
            return folder
    advice = "give the folder of a finished run"
    if several := sorted(card.parent.parent.name for card in path.glob(f"*/model/{CARD}")):
        advice = f"give one of {', '.join(map(str, (path / name for name in several)))}"
    elif path.is_file():
        advice = "it is a file, and a file of weights needs an encoder beside it"
    elif not path.exists():
        beside = [each.name for each in path.parent.glob("*")]
        near = difflib.get_close_matches(path.name, beside, n=1)
        advice = "there is no such path" + (f"; did you mean {path.parent / near[0]}?" if near else "")
    raise ExportError(f"{path} holds no exported model ({CARD} and {WEIGHTS}); {advice}")


def digest(path: str | Path) -> str:
    """A hash of an exported encoder's files."""
    folder = find_model(path)
    return hashlib.sha256((folder / WEIGHTS).read_bytes() + (folder / CARD).read_bytes()).hexdigest()


def read_card(path: str | Path) -> Card:
    """The card of an exported encoder.

    Raises:
        ExportError: there is no card, or it cannot be read.
    """
    folder = find_model(path)
    try:
        card = build(Card, parse((folder / CARD).read_bytes()))
    except ValueError as error:
        raise ExportError(f"{folder / CARD} is not the card of an exported model: {error}") from error
    if card.temperature is not None and card.temperature <= 0:
        raise ExportError(f"{folder / CARD}: temperature must be above 0, got {card.temperature:g}")
    options = {name: frozen(value) for name, value in card.modality_options.items()}
    return replace(card, modality_options=name_fit(card.modality, options))


def name_fit(modality: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of a trained network's view; options of earlier versions get `fit: stretch`, as they worked.

    Args:
        modality: the modality of the view.
        options: the options in a model's card or a run's config.
    """
    fits = modality in MODALITIES.names() and "fit" in MODALITIES.options(modality)
    return {"fit": "stretch"} | options if fits else options


def frozen(value: Any) -> Any:
    """An option of JSON as it was before: lists become tuples."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value
