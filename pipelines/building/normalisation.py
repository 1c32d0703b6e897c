"""The normalisation that published weights expect of an RGB view."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossmodal import ENCODERS, export
from crossmodal.encoders import Published
from pipelines.config import ConfigError
from pipelines.runs.console import say
from pipelines.schemas.common import StudentConfig, TeacherConfig, ViewConfig


def published_normalisation(
    view: str, config: ViewConfig, networks: Mapping[str, TeacherConfig | StudentConfig]
) -> dict[str, Any]:
    """Mean and std of the published networks that see an RGB view; empty where there are none.

    Raises:
        ConfigError: a teacher's are not the view's own, or not those of another network that sees the view.
    """
    found: dict[str, Any] = {}
    source = f"views.{view} sets"
    settings: dict[str, Any] = {
        option: config.options[option] for option in ("mean", "std") if option in config.options
    }
    for key, network in networks.items():
        own = _published(network) if network.view == view and config.modality == "rgb" else None
        if own is None:
            continue
        theirs: dict[str, Any] = asdict(own)
        for option, value in settings.items():
            if _is_near(value, theirs[option]):
                continue
            if not isinstance(network, TeacherConfig):  # it trains on, so the config decides
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
            found.update(new)
            settings.update(new)
    return found


def _published(network: TeacherConfig | StudentConfig) -> Published | None:
    """What a network's weights expect of RGB, where they are published ones and not an exported model's."""
    if network.encoder is None or network.weights is None:
        return None
    if isinstance(network, TeacherConfig) and network.normalisation == "view":
        return None
    path = Path(network.weights)
    if path.is_dir() or (path.name == export.WEIGHTS and (path.parent / export.CARD).is_file()):
        return None  # one of our own models, whose card tells what it saw
    return ENCODERS.get(network.encoder.name).published(**network.encoder.options)


def _is_near(given: Any, own: Sequence[float]) -> bool:
    """Whether two normalisations are one, rounded to three digits."""
    return len(given) == len(own) and all(abs(a - b) < 1e-3 for a, b in zip(given, own, strict=True))


def _round(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
