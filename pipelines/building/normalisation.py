"""The normalisation and picture size that published weights expect of an RGB view."""

from collections.abc import Mapping, Sequence
from typing import Any

from crossmodal import ENCODERS
from crossmodal.encoders import Published
from crossmodal.published import find
from modalities import Modality
from pipelines.building.published import is_run
from pipelines.config import ConfigError
from pipelines.runs.console import say
from pipelines.schemas.common import StudentConfig, TeacherConfig, ViewConfig


def published_normalisation(
    view: str, config: ViewConfig, networks: Mapping[str, TeacherConfig | StudentConfig]
) -> dict[str, Any]:
    """The mean and std that published networks add to an RGB view's options; empty if there are none.

    Raises:
        ConfigError: a teacher's mean or std differs from the view's own, or from that of another network on the
            view; or `normalisation` is set for a teacher that is a finished run.
    """
    added: dict[str, Any] = {}
    source = f"views.{view} sets"
    settings: dict[str, Any] = {
        option: config.options[option] for option in ("mean", "std") if option in config.options
    }
    for key, network in networks.items():
        own = _published(key, network) if network.view == view and config.modality == "rgb" else None
        if own is None:
            continue
        theirs: dict[str, Any] = {"mean": own.mean, "std": own.std}
        for option, value in settings.items():
            if _is_near(value, theirs[option]):
                continue
            if not isinstance(network, TeacherConfig):  # a student adapts in training, so the config decides
                say(f"{key} begins from weights published for {option}={_round(theirs[option])}, but {source} "
                    f"{option}={_round(value)}")  # fmt: skip
                continue
            raise ConfigError([
                f"{key}: its weights were published for RGB with {option}={_round(theirs[option])}, but {source} "
                f"{option}={_round(value)}; leave views.{view}.{option} out, give this network a view of its own, name "
                f"the published weights by their tag where there are several (timm), or set {key}.normalisation=view "
                "if the weights were trained otherwise"
            ])  # fmt: skip
        new = {option: value for option, value in theirs.items() if option not in settings}
        if new:
            source = f"{key} needs"
            added.update(new)
            settings.update(new)
    return added


def tell_published(key: str, network: TeacherConfig | StudentConfig, modality: Modality) -> None:
    """Prints the licence of a network with a name, and what differs from the input that it was trained with."""
    source = None if network.weights is None or is_run(network.weights) else find(network.weights)
    if source is not None:
        revision = f", revision {source.revision}" if source.revision else ""
        licence = f"licence {source.licence}" if source.licence else "licence not stated"
        say(f"{key}: {source.name}, {licence}{revision}, sha256 {source.sha256[:12]}")
    own = _published(key, network)
    if own is None:
        return
    if modality.field != "rgb" or len(modality.shape) != 3 or modality.shape[0] != 3:
        say(f"{key}: its weights were published for RGB with mean={_round(own.mean)} and std={_round(own.std)}; "
            f"views.{network.view} is of another modality and keeps its own normalisation")  # fmt: skip
    elif modality.shape[1:] != (own.size, own.size):
        height, width = modality.shape[1:]
        say(f"{key}: its weights were published for pictures of {own.size} x {own.size} pixels, and view "
            f"{network.view!r} gives {height} x {width}, with which their accuracy differs")  # fmt: skip


def _published(key: str, network: TeacherConfig | StudentConfig) -> Published | None:
    """The RGB normalisation and size that published weights expect; None for other weights."""
    if network.weights is None:
        return None
    run = is_run(network.weights)
    if isinstance(network, TeacherConfig) and network.normalisation == "view":
        if run:
            raise ConfigError([
                f"{key}.normalisation: view is for published weights, but {key}.weights, {network.weights}, is a "
                "finished run, which records its own normalisation; leave normalisation out"
            ])  # fmt: skip
        return None
    if run:  # its card records its view
        return None
    source = find(network.weights)
    if source is not None:
        return source.published
    if network.encoder is None:
        return None
    return ENCODERS.get(network.encoder.name).published(**network.encoder.options)


def _is_near(given: Any, own: Sequence[float]) -> bool:
    """True if two normalisations agree to three digits."""
    return len(given) == len(own) and all(abs(a - b) < 1e-3 for a, b in zip(given, own, strict=True))


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
