"""Encoders from configs, with random or loaded weights."""

from collections.abc import Mapping

from crossmodal import ENCODERS
from crossmodal.data.manifest import sha256_of
from crossmodal.data.views import View
from crossmodal.encoders import Encoder
from crossmodal.published import find
from crossmodal.weights import find_weights, load_pretrained
from pipelines.building.compatibility import describe_other_view
from pipelines.building.normalisation import tell_published
from pipelines.config import at
from pipelines.runs.console import say
from pipelines.schemas.common import EncoderConfig, StudentConfig


def build_encoder(config: EncoderConfig, shape: tuple[int, ...], classes: int, key: str) -> Encoder:
    """An encoder with random weights."""
    with at(key):
        return ENCODERS.get(config.name)(shape, classes, **config.options)


def build_student(
    config: StudentConfig,
    views: Mapping[str, View],
    classes: int,
    *,
    key: str = "student",
    new_classifier: bool = False,
) -> Encoder:
    """The network that is trained, with random or loaded weights; a new classifier has random weights in any case."""
    encoder = build_encoder(config.network, views[config.view].modality.shape, classes, f"{key}.encoder")
    if config.weights is not None:
        with at(f"{key}.weights"):
            new = load_pretrained(
                encoder,
                config.weights,
                sha256=config.sha256,
                first_layer=config.first_layer,
                new_classifier=new_classifier,
            )
            trained_on = describe_other_view(find_weights(config.weights), views[config.view].modality)
        say(f"{key} starts from {config.weights}{trained_on}" + (f"; new: {', '.join(new)}" if new else ""))
        tell_published(key, config, views[config.view].modality)
    return encoder


def student_digest(config: StudentConfig, key: str = "student") -> dict[str, str]:
    """The sha256 of the weights that a student starts from; empty for random weights."""
    if config.weights is None:
        return {}
    with at(f"{key}.weights"):
        source = find(config.weights)
        return {f"{key}.weights": source.digest if source else sha256_of(find_weights(config.weights))}
