"""Vision towers of OpenCLIP by model and tag, or in repositories with an open_clip_config.json."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip

from crossmodal.encoders import Published
from crossmodal.published.files import Repository, from_url
from crossmodal.published.hub_models import CLIP_CONFIG, read_json
from crossmodal.published.names import WeightsError, is_folder, split_revision
from crossmodal.published.source import Source

_SAFE, _PICKLED = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


def find(weights: str, *, download: bool = False) -> Source:
    """The tower of "open_clip:MODEL/TAG", or of a folder with an open_clip_config.json.

    Files are those of the hub's cache, or of OpenCLIP's own.

    Raises:
        WeightsError: open_clip has no such model or tag, or its file is not on this machine or cannot be fetched.
    """
    name, revision = split_revision(weights.removeprefix("open_clip:"))
    if is_folder("open_clip:", name):
        repository = Repository(weights, name, revision, download=False)
        return from_repository(repository, repository.file(CLIP_CONFIG))
    model, _, tag = name.partition("/")
    config = open_clip.get_model_config(model)
    if config is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise WeightsError(f"{weights}: open_clip {open_clip.__version__} has no model {model!r}{hint}")
    card = open_clip.get_pretrained_cfg(model, tag)
    if not card:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise WeightsError(
            f"{weights}: open_clip has no weights {tag!r} of {model} (known: {', '.join(tags) or 'none'})"
        )
    if card.get("quick_gelu"):
        config["quick_gelu"] = True
    repository = Repository(weights, card.get("hf_hub", "").rpartition("/")[0], revision, download=download)
    path = _weights(weights, card, repository)
    licence = repository.licence if repository.name else None
    return Source(weights, "open_clip", {"config": _vision(config)}, path, (), repository.commit(path), licence,
                  _input(config, card))  # fmt: skip


def from_repository(repository: Repository, path: Path) -> Source:
    """The tower of a repository with an open_clip_config.json at `path`.

    Raises:
        WeightsError: the description is damaged, or the weights are missing.
    """
    described = read_json(path)
    config = described.get("model_cfg", described)
    if not isinstance(config, dict) or "vision_cfg" not in config:
        raise WeightsError(f"{path} describes no vision tower: it has no vision_cfg")
    file = repository.file(_SAFE, _PICKLED)
    published = _input(config, described.get("preprocess_cfg", {}))
    return Source(repository.weights, "open_clip", {"config": _vision(config)}, file, (path,), repository.commit(file),
                  repository.licence, published)  # fmt: skip


def _weights(weights: str, card: Mapping[str, Any], repository: Repository) -> Path:
    name, url = card.get("hf_hub", "").rpartition("/")[2], card.get("url", "")
    names = (f"{name.rpartition('.')[0]}.safetensors", name) if name else (_SAFE, _PICKLED)
    found = next((path for name in names if (path := repository.cached(name))), None) if repository.name else None
    own = Path("~/.cache/clip").expanduser()
    if found is None and url and (not repository.name or (own / url.rpartition("/")[2]).is_file()):
        return from_url(weights, url, [own], sha256=_sum_in(url), download=repository.download)
    return found or repository.file(*names)


def _sum_in(url: str) -> str:
    """The first digits of the sum that an address has, as OpenCLIP reads it."""
    folder, name = url.rsplit("/", 2)[1:]
    if "openaipublic" in url:
        return folder
    return name.rpartition(".")[0].rpartition("-")[2] if "mlfoundations" in url else ""


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a model's config that the vision tower needs."""
    return {name: config[name] for name in ("embed_dim", "vision_cfg", "quick_gelu") if name in config}


def _input(config: Mapping[str, Any], card: Mapping[str, Any]) -> Published:
    size = config["vision_cfg"].get("image_size", 224)
    mean = tuple(card.get("mean") or open_clip.OPENAI_DATASET_MEAN)
    std = tuple(card.get("std") or open_clip.OPENAI_DATASET_STD)
    side = size if isinstance(size, int) else size[-1]
    return Published(mean, std, side, card.get("interpolation", "bicubic"), 1.0)
