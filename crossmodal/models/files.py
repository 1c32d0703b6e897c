"""The folder of an exported encoder: its weights (safetensors) and its card (JSON), written and loaded."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.overrides import TorchFunctionMode

from crossmodal import OBJECTIVES
from crossmodal.checkpoint import write, writing
from crossmodal.contrast.options import Negatives
from crossmodal.data.manifest import sha256_of
from crossmodal.encoders import Encoder, Spec
from crossmodal.models.card import CARD, WEIGHTS, Card, ExportError, Head, find_model, frozen, read_card
from crossmodal.models.hub import download, is_on_hub
from crossmodal.models.model import Model
from crossmodal.objectives import Objective
from crossmodal.weights import refuse_nonfinite
from modalities import MODALITIES

FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint, torch.normal)
SPARE = 2**20  # numbers that an encoder may allocate besides its weights: buffers, random rows


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
    return Model(card, encoder.eval(), modality, {name: head.eval() for name, head in heads.items()}, folder)


def load(path: str | Path, *, device: str | torch.device | None = None) -> Model:
    """An exported encoder, ready to use; see `Model.embed`.

    Args:
        path: folder of a finished run, or of an exported encoder; or "hf-hub:OWNER/NAME[@REVISION]", which is
            downloaded into the hub's cache.
        device: where it computes; None: on the GPU if there is one.

    Raises:
        ExportError: see `load_model`.
        HubError: the hub has no such model, refuses, or cannot be reached, and the cache does not have it.
    """
    model = load_model(download(str(path)) if is_on_hub(path) else path)
    model.encoder.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model


class _Room(TorchFunctionMode):
    """Raises an error once new tensors have many more numbers in total than a file of weights.

    So a card that describes a huge network costs neither memory nor time. A dispatch mode would see every allocation,
    but imports torch._dynamo, which takes longer than all else before the first vector.
    """

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.left = 4 * numbers + SPARE

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FACTORIES:
            values = (*args, *(kwargs or {}).values())
            size = next((value for value in values if isinstance(value, list | tuple)), args)
            self.left -= math.prod(number for number in size if type(number) is int)
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
    options = {name: list(frozen(value)) if isinstance(value, list) else value for name, value in head.options.items()}
    return {**options, "negatives": Negatives(count=1)} if "negatives" in options else options
