"""Networks of timm by their names: the registered ones, and any others of the hub's organisation timm."""

import difflib
import re
from pathlib import Path

import timm
from timm.models import PretrainedCfg

from crossmodal.published import hub_models
from crossmodal.published.files import Repository, from_url, hub_cache, torch_cache
from crossmodal.published.names import WeightsError, split_revision
from crossmodal.published.source import Source

_FILES = ("model.safetensors", "pytorch_model.bin")


def find(weights: str, *, download: bool = False) -> Source:
    """The network of "timm/MODEL.TAG"; without a tag, timm's default one.

    Files are those of the hub's cache, or of torch's, where timm kept them earlier.

    Raises:
        WeightsError: timm has no such model or weights, or they are not on this machine or cannot be fetched.
    """
    name, revision = split_revision(weights.removeprefix("timm/"))
    known = timm.is_model(name) and (timm.is_model_pretrained(name) or "." not in name)
    card = timm.get_pretrained_cfg(name) if known else None
    if card is None or not card.has_weights:
        repository = Repository(weights, f"timm/{name}", revision, download=download)
        try:
            described = repository.optional("config.json")
        except WeightsError as error:
            raise WeightsError(f"{weights}: {_nowhere(name)}, nor from the hub: {error}") from error
        if described is None:
            raise WeightsError(f"{weights}: {_nowhere(name)}")
        return hub_models.from_repository(repository)
    repository = Repository(weights, card.hf_hub_id or f"timm/{name}", revision, download=download)
    path = _weights(weights, card, repository)
    options = {"model": f"{card.architecture}.{card.tag}" if card.tag else name}
    licence = card.license or (repository.licence if card.hf_hub_id else None)
    return Source(
        weights, "timm", options, path, (), repository.commit(path), licence, hub_models.timm_input(card.to_dict())
    )


def _weights(weights: str, card: PretrainedCfg, repository: Repository) -> Path:
    url = card.url if isinstance(card.url, str) and card.url and not card.custom_load else None
    names = (card.hf_hub_filename,) if card.hf_hub_filename else _FILES
    found = next((path for name in names if (path := repository.cached(name))), None) if card.hf_hub_id else None
    if found is None and url is not None and repository.wanted is None:
        known = re.search(r"-([0-9a-f]{8,})\.", url)
        if not card.hf_hub_id or (torch_cache() / url.rpartition("/")[2]).is_file():
            return from_url(
                weights, url, [torch_cache()], sha256=known[1] if known else "", download=repository.download
            )
    return found or repository.file(*names)


def _nowhere(name: str) -> str:
    """Why timm does not have a model, with the nearest names."""
    model = name.partition(".")[0]
    if timm.is_model(model):
        known = timm.list_pretrained(f"{model}.*") or timm.list_pretrained(model)
        tags = f"; its weights are {', '.join(known)}" if known else ""
        return f"timm {timm.__version__} knows no weights of this name for {model}{tags}"
    near = difflib.get_close_matches(name, timm.list_pretrained(), n=1, cutoff=0.5)
    hint = f"; did you mean timm/{near[0]}?" if near else ""
    return f"timm {timm.__version__} has no such model, and it is not in {hub_cache()}{hint}"
