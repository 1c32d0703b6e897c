"""Networks that a config names by their published weights: their architecture, their input and their origin."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from crossmodal import models
from crossmodal.encoders import Published
from crossmodal.published import Source, find
from modalities.common.picture import MODES
from pipelines.config import ConfigError, at, to_dict, to_plain, within
from pipelines.schemas.common import EncoderConfig, Network, StudentConfig, TeacherConfig, ViewConfig

Config = TypeVar("Config")
_SHAPE = ("size", "height", "width")
_HARMLESS = ("dropout", "drop_path")  # options that change no weight


def settle(config: Config) -> Config:
    """The config with what its names of published weights imply: architectures, and what RGB views do not say.

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
    return _with(config, {key: network for key, (_, network) in implied.items()}, _fitted(config, implied))


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
    """Where the networks come from that a config names, by config key, to record in a run's folder.

    Name, file, sha256, revision, licence and input, as JSON has them; None: not stated.
    """
    networks = networks_in(getattr(config, "transfer", config))
    named = {key: each.weights for key, each in networks.items() if each.weights is not None}
    found = {key: source for key, weights in named.items() if (source := find(weights)) is not None}
    return {
        key: {
            "weights": source.name, "file": str(source.path.absolute()), "sha256": source.sha256,
            "revision": source.revision, "licence": source.licence,
            "input": None if source.published is None else to_plain(source.published),
        } for key, source in found.items()
    }  # fmt: skip


def is_run(weights: str) -> bool:
    """True if the weights are those of a finished run or an exported model, whose card describes them."""
    path = Path(weights)
    return path.is_dir() or (path.name == models.WEIGHTS and (path.parent / models.CARD).is_file())


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


def _fitted(config: Any, implied: Mapping[str, tuple[Source, Network]]) -> dict[str, ViewConfig]:
    """The RGB views with the size, normalisation and interpolation of the networks on them, where the config has none.

    Raises:
        ConfigError: two teachers were trained with different ones; the message has both.
    """
    views, given, chosen = dict(config.views), networks_in(config), dict[tuple[str, str], str]()
    for key, (source, network) in implied.items():
        name, view = network.view, views.get(network.view)
        if view is None or given[key].encoder is not None or source.published is None or view.modality != "rgb":
            continue
        if isinstance(network, TeacherConfig) and network.normalisation == "view":
            continue
        wanted = _options(source.published, config.views[name].options)
        for option, value in wanted.items():
            other = chosen.setdefault((name, option), key)
            ours = views[name].options.get(option, value)
            if ours != value and isinstance(network, TeacherConfig):
                remedy = "give each a view of its own" if option in ("mean", "std") else f"set views.{name}.{option}"
                raise ConfigError([
                    f"views.{name}: {other} was trained with {option}={_shown(ours)}, but {key} with "
                    f"{option}={_shown(value)}; {remedy}"
                ])  # fmt: skip
        views[name] = replace(views[name], options={**wanted, **views[name].options})
    return views


def _options(published: Published, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an RGB view that a published network implies, without those that the config gives."""
    implied: dict[str, Any] = {"mean": published.mean, "std": published.std}
    if published.interpolation in MODES:
        implied["interpolation"] = published.interpolation
    if not any(name in given for name in _SHAPE):
        implied["size"] = published.size
    return {name: value for name, value in implied.items() if name not in given}


def _shown(value: Any) -> Any:
    return [round(each, 4) for each in value] if isinstance(value, tuple) else value


def _with(config: Any, networks: Mapping[str, Network], views: Mapping[str, ViewConfig]) -> Any:
    """The config with other networks and views."""
    changed: dict[str, Any] = {"views": dict(views)}
    for key, network in networks.items():
        name, _, member = key.partition(".")
        changed[name] = {**changed.get(name, getattr(config, name)), member: network} if member else network
    return replace(config, **changed)
