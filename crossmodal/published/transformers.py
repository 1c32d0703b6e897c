"""Vision networks of transformers by their names on the Hugging Face Hub."""

import transformers

from crossmodal.encoders import Published
from crossmodal.published.files import Repository
from crossmodal.published.hub_models import read_json
from crossmodal.published.names import WeightsError, split_revision
from crossmodal.published.source import Source

_SHARDED = "model.safetensors.index.json"
_UNUSED = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "text_config", "torch_dtype",
           "transformers_version")  # fmt: skip
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def find(weights: str, *, download: bool = False) -> Source:
    """The network of "transformers:ORGANISATION/NAME", or of a folder that `save_pretrained` wrote.

    Raises:
        WeightsError: it is not on this machine or cannot be fetched, or is no network that transformers knows.
    """
    name, revision = split_revision(weights.removeprefix("transformers:"))
    repository = Repository(weights, name, revision, download=download)
    path = repository.file("config.json")
    config = read_json(path)
    kind = config.get("model_type")
    if kind is None and "architecture" in config:
        raise WeightsError(f"{weights} is a model of timm; write hf-hub:{name}")
    if kind not in transformers.CONFIG_MAPPING:
        raise WeightsError(f"{weights} is a {kind!r}, which transformers {transformers.__version__} does not have; "
                           "upgrade transformers")  # fmt: skip
    if repository.optional("model.safetensors") is None and repository.optional(_SHARDED) is not None:
        raise WeightsError(f"{weights} lies in several files, which are not read; save it as one with save_pretrained")
    file = repository.file("model.safetensors", "pytorch_model.bin")
    described = repository.optional("preprocessor_config.json")
    published = None if described is None else _input(read_json(described))
    options = {"config": {name: value for name, value in config.items() if name not in _UNUSED}}
    beside = (path,) if described is None else (path, described)
    return Source(
        weights, "transformers", options, file, beside, repository.commit(file), repository.licence, published
    )


def _input(described: dict[str, object]) -> Published | None:
    """The input that a preprocessor_config.json describes; None if it does not normalise pictures of RGB."""
    mean, std = described.get("image_mean"), described.get("image_std")
    if not (isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3):
        return None
    if described.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    resized = _side(described.get("size"))
    side = (_side(described.get("crop_size")) if described.get("do_center_crop") else None) or resized or 224
    share = described.get("crop_pct") if resized is None or resized == side else side / resized
    resample = described.get("resample", 3)
    return Published(
        (mean[0], mean[1], mean[2]),
        (std[0], std[1], std[2]),
        side,
        _RESAMPLING.get(resample) if isinstance(resample, int) else None,
        float(share) if isinstance(share, int | float) else 1.0,
    )


def _side(size: object) -> int | None:
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) else None
