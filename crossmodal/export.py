"""Export of an encoder into one folder: weights, architecture, and the preprocessing of its input."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal import ENCODERS, OBJECTIVES
from crossmodal.checkpoint import write, writing
from crossmodal.contrast.options import Negatives
from crossmodal.data.inputs import InputError, find_inputs
from crossmodal.data.manifest import sha256_of
from crossmodal.data.plain import build, parse
from crossmodal.data.samples import SampleError, load_samples
from crossmodal.encoders import Encoder, Features, Spec
from crossmodal.objectives import Objective
from crossmodal.weights import refuse_nonfinite
from modalities import MODALITIES, CropBox, Modality

CARD, WEIGHTS = "model.json", "model.safetensors"
Signals = str | Path | np.ndarray | Tensor | Sequence[str | Path | np.ndarray | Tensor]  # what a model reads
SPARE = 2**20  # numbers that an encoder may allocate besides its weights: buffers, random rows


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


@dataclass(frozen=True)
class Model:
    """A loaded exported encoder."""

    card: Card
    encoder: Encoder
    modality: Modality
    heads: dict[str, Objective]

    def embed(self, what: Signals, *, batch_size: int = 64, workers: int = 0) -> Float[Tensor, "samples dim"]:
        """The embeddings of samples, in order, on the CPU.

        Args:
            what: a path or several: files, folders of files, globs, folders of shards; or an array or several: signals
                in the modality's unit, as for depth metres [height, width] with 0 for no reading, and for rgb uint8
                [height, width, 3] or numbers from 0 to 1 [3, height, width].
            batch_size: number of samples that the encoder sees at a time.
            workers: processes that read files.

        Raises:
            InputError: a path names nothing, or an array has another shape.
            SampleError: a file or pair cannot be read; the message names it.
            ShardError: a folder of shards cannot be opened.
        """
        return torch.cat([features.embedding.float().cpu() for features in self._features(what, batch_size, workers)])

    def maps(self, what: Signals, *, batch_size: int = 64, workers: int = 0) -> list[Float[Tensor, "samples _ _ _"]]:
        """The output of each stage for samples, from fine to coarse, on the CPU; see `embed`."""
        stages = zip(*(features.maps for features in self._features(what, batch_size, workers)), strict=True)
        return [torch.cat([part.float().cpu() for part in stage]) for stage in stages]

    def predict(self, what: Signals, *, batch_size: int = 64, workers: int = 0) -> list[tuple[str, float]]:
        """The most probable class of each sample, and its probability; see `embed`.

        Raises:
            ExportError: the model has no classes.
        """
        answers: list[tuple[int, float]] = []
        for batch in self._batches(what, batch_size, workers):
            with torch.inference_mode():
                best = self.probabilities(batch).max(1)
            answers += zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.card.classes[place], share) for place, share in answers]

    def _features(self, what: Signals, batch_size: int, workers: int) -> Iterator[Features]:
        for batch in self._batches(what, batch_size, workers):
            with torch.inference_mode():
                yield self.encoder(self.modality.normalise(batch))

    def _batches(self, what: Signals, batch_size: int, workers: int) -> Iterator[Float[Tensor, "batch *shape"]]:
        """Adapted samples on the encoder's device."""
        device = next(self.encoder.parameters()).device
        several = [what] if isinstance(what, str | Path | np.ndarray | Tensor) else list(what)
        if not several:
            raise InputError("give at least one path or array")
        if any(isinstance(each, str | Path) for each in several):
            if not all(isinstance(each, str | Path) for each in several):
                raise InputError("give paths or arrays, not both")
            words = [str(each) for each in several]
            inputs = find_inputs(words, self.modality, self.card.modality, self.card.modality_options)
            for samples in inputs.samples:
                for part in load_samples(samples, batch_size=batch_size, workers=workers):
                    for name, problem in zip(part.names, part.problems, strict=True):
                        if problem is not None:
                            raise SampleError(f"{name}: {problem}")
                    assert part.adapted is not None
                    yield part.adapted.to(device)
            return
        for start in range(0, len(several), batch_size):
            adapted = [self._adapt(each) for each in several[start : start + batch_size]]
            yield torch.stack(adapted).to(device)

    def _adapt(self, array: Any) -> Float[Tensor, "*shape"]:
        signal = torch.as_tensor(array)
        if signal.dtype == torch.uint8 and signal.ndim == 3 and signal.shape[2] == 3:
            signal = signal.permute(2, 0, 1) / 255
        signal = signal[None] if signal.ndim == 2 else signal
        try:
            return self.modality.adapt(signal.float(), CropBox())
        except Exception as error:  # whatever a wrong shape leads to
            raise InputError(
                f"an array of shape {list(signal.shape)} is no signal of {self.card.modality}: {error}"
            ) from error

    def probabilities(self, batch: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch classes"]:
        """The probability of each class, calibrated where the card has a temperature.

        Args:
            batch: adapted samples in physical units, on the encoder's device.

        Raises:
            ExportError: the model has no classes.
        """
        logits = self.encoder(self.modality.normalise(batch)).logits
        if logits is None:
            raise ExportError("this model has no classes; train a classifier from it with crossmodal supervise")
        return (logits.float() / (self.card.temperature or 1.0)).softmax(1)


def save_model(folder: Path, card: Card, encoder: Encoder, heads: dict[str, Objective]) -> None:
    """Writes weights (safetensors) and card (JSON)."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for name, head in heads.items():
        state |= {f"heads.{name}.{key}": tensor for key, tensor in head.state_dict().items()}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    weights = save(plain)
    card = replace(card, weights=hashlib.sha256(weights).hexdigest())
    write(folder / WEIGHTS, weights)
    write(folder / CARD, json.dumps(asdict(card), indent=1) + "\n")


def find_model(path: str | Path) -> Path:
    """The folder of an exported encoder: `path` itself, or `model` in the folder of a run.

    Raises:
        ExportError: there is no exported encoder.
    """
    path = Path(path)
    for folder in (path, path / "model"):
        if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
            return folder
    several = sorted(card.parent.parent.name for card in path.glob(f"*/model/{CARD}"))
    advice = f"give one of {', '.join(map(str, (path / name for name in several)))}" if several else (
        "give the folder of a finished run"
    )  # fmt: skip
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
    options = {name: _frozen(value) for name, value in card.modality_options.items()}
    return replace(card, modality_options=name_fit(card.modality, options))


def name_fit(modality: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of a trained network's view; options of earlier versions get `fit: stretch`, as they worked.

    Args:
        modality: the modality of the view.
        options: the options in a model's card or a run's config.
    """
    fits = modality in MODALITIES.names() and "fit" in MODALITIES.options(modality)
    return {"fit": "stretch"} | options if fits else options


def load_model(path: str | Path) -> Model:
    """An exported encoder in eval mode, with its modality and heads.

    Raises:
        ExportError: the folder holds no exported encoder, its weights do not match its card, or the card needs
            something that is not available.
        WeightsError: its weights are not finite.
    """
    folder, card = find_model(path), read_card(path)
    if card.weights and sha256_of(folder / WEIGHTS) != card.weights:
        raise ExportError(f"{folder / WEIGHTS} is not the file that was exported (its sha256 is not that of {CARD}); "
                          "copy or export the folder again")  # fmt: skip
    try:
        state = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    try:
        modality = MODALITIES.get(card.modality)(**card.modality_options)
        if modality.shape != card.shape:
            raise ValueError(f"shape is {list(card.shape)}, but its modality gives {list(modality.shape)}")
        with _Room(sum(tensor.numel() for tensor in state.values()) + math.prod(card.shape)):
            encoder = card.build()
            heads = {name: _head(head, encoder.spec) for name, head in card.heads.items()}
    except Exception as error:  # entries, such as plug-ins and timm, may raise any error for invalid options
        raise ExportError(f"{folder / CARD} needs what this version does not have: {error}") from error
    try:
        encoder.load_state_dict(_below(state, "encoder."))
        for name, head in heads.items():
            head.load_state_dict(_below(state, f"heads.{name}."))
    except RuntimeError as error:
        raise ExportError(f"{folder / WEIGHTS} does not fit {folder / CARD}: {error}") from error
    refuse_nonfinite(state, folder / WEIGHTS)
    return Model(card, encoder.eval(), modality, {name: head.eval() for name, head in heads.items()})


def load(path: str | Path, *, device: str | torch.device | None = None) -> Model:
    """An exported encoder, ready to use; see `Model.embed`.

    Args:
        path: folder of a finished run, or of an exported encoder.
        device: where it computes; None: on the GPU if there is one.

    Raises:
        ExportError: see `load_model`.
    """
    model = load_model(path)
    model.encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model


class _Room(TorchDispatchMode):
    """Raises an error once new tensors have many more numbers in total than a file of weights.

    So a card that describes a huge network costs neither memory nor time.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.left = 4 * numbers + SPARE

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], list | tuple) and all(type(size) is int for size in args[0]):
            self.left -= math.prod(args[0])  # a factory function such as torch.empty
            if self.left < 0:
                raise ValueError(f"it has far more than the {self.numbers} numbers of its weights")
        return func(*args, **(kwargs or {}))


def _head(head: Head, spec: Spec) -> Objective:
    objective: Objective = OBJECTIVES.get(head.objective)(spec, head.teacher_spec, 2, **_options(head))
    return objective


def _below(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _options(head: Head) -> dict[str, Any]:
    """The options as in a config, but with a single negative, because a comparison needs none."""
    options = {name: list(_frozen(value)) if isinstance(value, list) else value for name, value in head.options.items()}
    return {**options, "negatives": Negatives(count=1)} if "negatives" in options else options


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
