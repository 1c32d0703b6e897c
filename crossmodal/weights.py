"""Published weights: finding and reading files, and adapting them to other numbers of channels or classes."""

import hashlib
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
from crossmodal.published import WeightsError, find

FirstLayer = Literal["sum", "mean", "repeat", "random"]

_COMPILED = "_orig_mod."  # prefix that torch.compile adds to names
_EXPORTED = "model.safetensors"  # file of weights in an exported model


def load_pretrained(
    encoder: Encoder,
    weights: str,
    *,
    sha256: str | None = None,
    first_layer: FirstLayer = "sum",
    new_classifier: bool = False,
) -> list[str]:
    """Copies published weights into an encoder's trunk; returns the names that keep their initial values.

    Weights of the classifier are skipped if their names or shapes differ, because the classes differ. The first layer
    may have other channels, see `adapt_first_layer`. Everything else must match.

    Args:
        encoder: changed in place, unless an error is raised.
        weights: a .safetensors file, a file of torch.save, a finished run, or a name, see `find_weights`.
        sha256: expected sum of the file, in hexadecimal.
        first_layer: how to adapt the first layer to other channels.
        new_classifier: skip the classifier's weights in any case.

    Raises:
        WeightsError: the file is missing, has another sum, cannot be read, is for another network, holds several sets
            of weights that fit, or has weights that are not finite.
    """
    path = find_weights(weights)
    own = encoder.trunk.state_dict()
    given, adapted = _choose(read_weights(path, sha256), encoder, first_layer, path)
    classifier = [name for name in own if name.startswith(encoder.classifier)]
    left = [name for name in classifier if new_classifier or not _fits(name, own, given)]
    problems = _compare(own, given, encoder.classifier)
    if problems:
        match = sum(_fits(name, own, given) for name in own)
        raise WeightsError(
            f"{path} is not made for this {type(encoder).__name__}: {match} of {len(own)} weights match; "
            f"{'; '.join(problems)}; set the encoder and options that the file is made for, or use another file"
        )
    copied = {name: given[name] for name in own if _fits(name, own, given) and name not in left}
    refuse_nonfinite(copied, path)
    encoder.trunk.load_state_dict(copied, strict=False)
    return left if adapted else [encoder.stem, *left]


def refuse_nonfinite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses weights that are NaN or infinite in float32; an objective may not notice them in training.

    Raises:
        WeightsError: a weight is not finite; the message names the first, and its file.
    """
    for name, tensor in tensors.items():
        if not tensor.float().isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity, as after a training that diverged; use "
                               "another file, or train it again")  # fmt: skip


def adapt_first_layer(
    weight: Float[Tensor, "filters given *kernel"], channels: int, how: FirstLayer
) -> Float[Tensor, "filters channels *kernel"]:
    """The first layer's weights for another number of channels; all are heuristics, so fine-tune or measure.

    - "sum": every channel gets the sum over the given channels, divided by `channels`. A grey picture repeated over the
      channels has exactly the same response as in the given network, if the modality normalises all channels alike and
      as the given network's.
    - "mean": every channel gets the mean. Responses grow with `channels`: one channel gives a third of RGB's response.
    - "repeat": channel i gets the weights of channel i modulo the given ones, scaled by given / `channels` so that
      responses keep their scale. Suitable if the first channels keep their meaning, as in RGB plus depth.

    Raises:
        ValueError: `how` is none of these; `load_pretrained` handles "random", which keeps the layer's initial values.
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
    """The file for the config's `weights`: a path, the folder of a finished run, or a name that `find` knows.

    Raises:
        WeightsError: there is no such file, or the name is unknown or its files are not on this machine.
    """
    source = find(weights)
    if source is not None:
        return source.path
    path = Path(weights)
    for candidate in (path, path / _EXPORTED, path / "model" / _EXPORTED):
        if candidate.is_file():
            return candidate
    raise WeightsError(f"there is no file of weights at {path.absolute()}; nothing is downloaded")


def read_weights(path: Path, sha256: str | None = None) -> dict[str, dict[str, Tensor]]:
    """Every state_dict (tensors by name) in a file, by the keys above it; no code in the file is run.

    Raises:
        WeightsError: the sum differs, or the file cannot be read or holds no tensors by name.
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
    except Exception as error:  # a damaged file may raise anything; the message names the file
        raise WeightsError(f"{path} cannot be read as a file of weights: {error}") from error
    return _unwrap(content, path)


def check_sum(path: Path, actual: str, sha256: str | None) -> None:
    """Refuses a file whose sum is not `sha256`, if that is given.

    Raises:
        WeightsError: the sums differ.
    """
    if sha256 is not None and actual != sha256.lower():
        raise WeightsError(f"{path}: expected sha256 {sha256}, got {actual}; fetch the file again or correct the sum")


def _unwrap(content: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    """Every state_dict in a file, by the keys above it."""
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
    """The tensors for an encoder, by its own names, and whether its first layer is among them.

    Training scripts store weights below arbitrary keys and prefixes, so every one is tried. If none fits, the best one
    is converted by the encoder.

    Raises:
        WeightsError: several different sets of weights fit.
    """
    own, tried = encoder.trunk.state_dict(), list[tuple[int, str, dict[str, Tensor]]]()
    for place, table in tables.items():
        named = encoder.rename(table)
        for prefix in {"": None} | dict.fromkeys(_prefixes(named, own)):
            given = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
            adapted, _ = _meet_channels(given, own, encoder.stem, first_layer)
            fits = sum(_fits(name, own, adapted) for name in own)
            problems = _compare(own, adapted, encoder.classifier)
            tried.append((len(own) + 1 if not problems else fits, f"{place}, {prefix or 'no prefix'}", given))
    best = max(score for score, *_ in tried)
    (_, place, chosen), *others = [each for each in tried if each[0] == best]
    if best <= len(own):
        return _meet_channels(encoder.convert(chosen), own, encoder.stem, first_layer)
    if (other := next((each for each in others if not _equal(chosen, each[2])), None)) is not None:
        raise WeightsError(f"{path} holds several sets of weights for a {type(encoder).__name__}: below {place}, "
                           f"and below {other[1]}; save the set to use in a file of its own")  # fmt: skip
    return _meet_channels(chosen, own, encoder.stem, first_layer)


def _prefixes(names: Iterable[str], own: Mapping[str, Tensor]) -> Iterator[str]:
    """The prefixes before an encoder's own names, each with its dot."""
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if ".".join(parts[count:]) in own:
                yield ".".join(parts[:count]) + "."


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _meet_channels(
    given: dict[str, Tensor], own: Mapping[str, Tensor], stem: str, how: FirstLayer
) -> tuple[dict[str, Tensor], bool]:
    """The tensors with the stem adapted if only its channels differ; False if the encoder's own values stay."""
    theirs, ours = given.get(stem), own.get(stem)
    if theirs is None or ours is None or theirs.ndim != ours.ndim or theirs.shape[1] == ours.shape[1]:
        return given, True
    adapted = ours if how == "random" else adapt_first_layer(theirs, ours.shape[1], how)
    return {**given, stem: adapted}, how != "random"


def _fits(name: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return name in given and given[name].shape == own[name].shape


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor], classifier: str) -> list[str]:
    """The mismatches outside the classifier, each kind with its first example."""
    ours = [name for name in own if not name.startswith(classifier)]
    missing = [name for name in ours if name not in given and not name.endswith("num_batches_tracked")]  # older files
    unexpected = [name for name in given if name not in own and not name.startswith(classifier)]
    other = [name for name in ours if name in given and not _fits(name, own, given)]
    problems = [f"the file lacks {len(missing)}, first {missing[0]!r}"] if missing else []
    if unexpected:
        problems.append(f"the encoder lacks {len(unexpected)}, first {unexpected[0]!r}")
    if other:
        name = other[0]
        shapes = f"{tuple(given[name].shape)} in the file and {tuple(own[name].shape)} in the encoder"
        problems.append(f"{len(other)} shapes differ, first {name!r}: {shapes}")
    return problems
