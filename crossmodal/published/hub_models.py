"""Networks in repositories of the Hugging Face Hub that describe themselves: timm's and OpenCLIP's."""

import importlib
import json
from pathlib import Path
from typing import Any

from crossmodal.encoders import Published
from crossmodal.published.files import Repository
from crossmodal.published.names import WeightsError, split_revision
from crossmodal.published.source import Source

CLIP_CONFIG = "open_clip_config.json"
_SIZES = ("img_size", "in_chans", "num_classes")  # arguments that the view and the config decide


def find(weights: str, *, download: bool = False) -> Source:
    """The network of "hf-hub:ORGANISATION/NAME", or of the folder of a copy.

    Raises:
        WeightsError: it is not on this machine or cannot be fetched, or its kind is unknown.
    """
    name, revision = split_revision(weights.removeprefix("hf-hub:"))
    return from_repository(Repository(weights, name, revision, download=download))


def from_repository(repository: Repository) -> Source:
    """The network of a repository with timm's config.json or OpenCLIP's open_clip_config.json.

    Raises:
        WeightsError: see `find`.
    """
    path = repository.optional("config.json")
    config = {} if path is None else read_json(path)
    if path is not None and "architecture" in config:
        return _of_timm(repository, path, config)
    if (clip := repository.optional(CLIP_CONFIG)) is not None:  # beside a config.json of transformers, in many
        source: Source = importlib.import_module("crossmodal.published.open_clip").from_repository(repository, clip)
        return source
    if "model_type" in config:
        raise WeightsError(f"{repository.weights} is a model of transformers; write transformers:{repository.name}")
    path = repository.file("config.json")
    raise WeightsError(f"{repository.weights}: {path} names no architecture, as timm's does")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a repository's description.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}; delete it and fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must describe a model, got {type(content).__name__}")
    return content


def timm_input(card: dict[str, object]) -> Published | None:
    """The input that a network was trained with, from timm's description of its weights."""
    mean, std, size = card.get("mean"), card.get("std"), card.get("input_size", (3, 224, 224))
    if not (isinstance(mean, list | tuple) and isinstance(std, list | tuple) and len(mean) == len(std) == 3):
        return None
    crop, interpolation = card.get("crop_pct"), card.get("interpolation")
    return Published(
        tuple(map(float, mean)),  # type: ignore[arg-type]
        tuple(map(float, std)),  # type: ignore[arg-type]
        size[-1] if isinstance(size, list | tuple) else 224,
        interpolation if isinstance(interpolation, str) else None,
        float(crop) if isinstance(crop, int | float) else None,
    )


def _of_timm(repository: Repository, path: Path, config: dict[str, Any]) -> Source:
    import timm

    model = config["architecture"]
    if not timm.is_model(model):
        raise WeightsError(f"{repository.weights} is a {model}, which timm {timm.__version__} does not have; upgrade "
                           "timm")  # fmt: skip
    card = config.get("pretrained_cfg", config)
    arguments = {name: value for name, value in config.get("model_args", {}).items() if name not in _SIZES}
    weights = repository.file("model.safetensors", "pytorch_model.bin")
    options = {"model": model} | ({"arguments": arguments} if arguments else {})
    licence = card.get("license") or repository.licence
    revision = repository.commit(weights)
    return Source(repository.weights, "timm", options, weights, (path,), revision, licence, timm_input(card))
