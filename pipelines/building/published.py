"""Networks that a config names by their published weights: their architecture, their input and their origin."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from crossmodal import export
from crossmodal.data.manifest import sha256_of
from crossmodal.published import Source, find
from crossmodal.weights import find_weights
from pipelines.config import ConfigError, at, to_dict, to_plain, within
from pipelines.schemas.common import EncoderConfig, Network, StudentConfig, TeacherConfig, ViewConfig

Config = TypeVar("Config")
_SHAPE = ("size", "height", "width")
_HARMLESS = ("dropout", "drop_path")  # options that change no weight


def settle(config: Config) -> Config:
    """The config with what its names of published weights imply: architectures, and the size of RGB views without one.

    Configs without such names are unchanged. It may download, where the config says so, and does nothing twice.

    Raises:
        ConfigError: a name is unknown, its files are missing, or the config contradicts it.
    """
    if hasattr(config, "transfer"):  # a comparison
        with within("transfer"):
            return replace(config, transfer=settle(config.transfer))  # type: ignore[type-var]
    implied = {}
    for key, network in networks_in(config).items():
        with at(f"{key}.weights"):
            source = None if network.weights is None else find(network.weights, download=network.download)
        if source is not None:
            implied[key] = source, replace(network, encoder=_architecture(key, network, source))
    if not implied:
        return config
    return _with(config, {key: network for key, (_, network) in implied.items()}, _sized(config, implied))


def networks_in(config: object) -> dict[str, Network]:
    """The teachers, students and encoders of a config, by config key."""
    found: dict[str, Network] = {}
    for item in fields(config) if is_dataclass(config) else ():
        value = getattr(config, item.name)
        named = {f"{item.name}.{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {
            item.name: value
        }  # fmt: skip
        found |= {key: each for key, each in named.items() if isinstance(each, TeacherConfig | StudentConfig)}
    return found


def origins(config: object) -> dict[str, dict[str, Any]]:
    """Where the published weights of a config come from, by config key, to record in a run's folder."""
    config = getattr(config, "transfer", config)
    return {
        key: describe_origin(network.weights)
        for key, network in networks_in(config).items()
        if network.weights is not None and not is_run(network.weights)
    }


def describe_origin(weights: str) -> dict[str, Any]:
    """Name, file, sha256, revision, licence and input of published weights, as JSON has them; None: not stated."""
    source = find(weights)
    if source is None:
        path = find_weights(weights)
        return {"weights": weights, "file": str(path.absolute()), "sha256": sha256_of(path)}
    return {
        "weights": weights, "file": str(source.path.absolute()), "sha256": source.sha256, "revision": source.revision,
        "licence": source.licence, "input": None if source.published is None else to_plain(source.published),
    }  # fmt: skip


def is_run(weights: str) -> bool:
    """True if the weights are those of a finished run or an exported model, whose card describes them."""
    path = Path(weights)
    return path.is_dir() or (path.name == export.WEIGHTS and (path.parent / export.CARD).is_file())


def _architecture(key: str, network: Network, source: Source) -> EncoderConfig:
    """The encoder of a named network; the one that the config gives, if it agrees.

    Raises:
        ConfigError: it does not; the message has both.
    """
    implied = EncoderConfig(source.encoder, dict(source.options))
    if network.encoder is None:
        return implied
    ours, theirs = to_dict(network.encoder, whole=True), to_dict(implied, whole=True)
    for each in (ours, theirs):
        if each["name"] == "timm":
            each["model"] = each["model"].partition(".")[0]  # the tag is that of the weights
    unlike = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name) and name not in _HARMLESS]
    if "name" in unlike:
        raise ConfigError([f"{key}.encoder: {source.name} is a {theirs['name']}, got {ours['name']}; leave encoder "
                           "out, because the name implies it"])  # fmt: skip
    if unlike:
        values = ", ".join(f"{name}={theirs.get(name)!r} (here {ours.get(name)!r})" for name in unlike)
        raise ConfigError([f"{key}.encoder: {source.name} is a {theirs['name']} with {values}; leave encoder out, "
                           "because the name implies it"])  # fmt: skip
    return network.encoder


def _sized(config: Any, implied: Mapping[str, tuple[Source, Network]]) -> dict[str, ViewConfig]:
    """The RGB views without a size, at the size that the networks on them were trained with.

    Raises:
        ConfigError: two networks were trained with different sizes; the message has both.
    """
    sizes: dict[str, tuple[str, int]] = {}  # of each view, with the network's key
    given = networks_in(config)
    for key, (source, network) in implied.items():
        view = config.views.get(network.view)
        if view is None or given[key].encoder is not None or source.published is None or view.modality != "rgb":
            continue
        if any(name in view.options for name in _SHAPE) or _sees_as_the_view_says(network):
            continue
        other, size = sizes.setdefault(network.view, (key, source.published.size))
        if size != source.published.size:
            raise ConfigError([
                f"views.{network.view}.size must be given, or each network needs a view of its own: {other} was "
                f"trained on pictures of {size} pixels, {key} on {source.published.size}"
            ])  # fmt: skip
    views = dict(config.views)
    for name, (_, size) in sizes.items():
        views[name] = replace(views[name], options={**views[name].options, "size": size})
    return views


def _sees_as_the_view_says(network: Network) -> bool:
    return isinstance(network, TeacherConfig) and network.normalisation == "view"


def _with(config: Any, networks: Mapping[str, Network], views: Mapping[str, ViewConfig]) -> Any:
    """The config with other networks and views."""
    changed: dict[str, Any] = {"views": dict(views)}
    for key, network in networks.items():
        name, _, member = key.partition(".")
        changed[name] = {**changed.get(name, getattr(config, name)), member: network} if member else network
    return replace(config, **changed)
