"""Frozen teachers from configs: networks that run, or their cached features."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from crossmodal import ENCODERS, models
from crossmodal.data.features import FeatureManifest, FeatureShards, read_manifest
from crossmodal.data.manifest import sha256_of
from crossmodal.data.views import View
from crossmodal.encoders import Encoder, Features, Spec, cat_features
from crossmodal.objectives import Batch
from crossmodal.published import find
from crossmodal.stores.paths import to_path
from crossmodal.weights import check_sum, find_weights, load_pretrained
from pipelines.building.compatibility import refuse_other_view
from pipelines.building.encoders import build_encoder
from pipelines.building.normalisation import tell_published
from pipelines.config import ConfigError, at
from pipelines.schemas.common import TeacherConfig


@dataclass(frozen=True)
class Teacher:
    """A frozen network and the view it sees."""

    encoder: Encoder
    view: str
    classes: list[str]  # names of its logits, if known
    weight: float = 1.0
    chunk: int | None = None  # pairs per forward pass; None: all

    @property
    def spec(self) -> Spec:
        """The sizes of its features."""
        return self.encoder.spec

    @torch.no_grad()
    def forward(self, batch: Batch) -> Features:
        """Its features of a batch; no gradient, no running statistics."""
        inputs = batch.inputs[self.view]
        return cat_features([self.encoder(piece) for piece in inputs.split(self.chunk or len(inputs))])


@dataclass(frozen=True)
class CachedTeacher:
    """A teacher that does not run: its features come with the batch."""

    name: str
    kept: FeatureManifest
    view: str
    weight: float = 1.0

    @property
    def spec(self) -> Spec:
        """The sizes of the cached features."""
        return self.kept.spec

    @property
    def classes(self) -> list[str]:
        """Names of its logits, if known."""
        return self.kept.classes

    def forward(self, batch: Batch) -> Features:
        """The cached features of a batch."""
        return batch.features[self.name]


AnyTeacher = Teacher | CachedTeacher


def build_teachers(configs: Mapping[str, TeacherConfig], views: Mapping[str, View]) -> dict[str, Teacher]:
    """The frozen networks, each checked against its view."""
    return {name: _build_teacher(config, views, f"teachers.{name}") for name, config in configs.items()}


def build_any_teachers(
    configs: Mapping[str, TeacherConfig],
    views: Mapping[str, View],
    kept: Mapping[str, FeatureShards],
    *,
    chunk: int | None = None,
) -> dict[str, AnyTeacher]:
    """All teachers in their order; only those without cached features are built."""
    running = build_teachers({name: config for name, config in configs.items() if name not in kept}, views)
    return {
        name: replace(running[name], chunk=chunk)
        if name in running
        else CachedTeacher(name, kept[name].manifest, config.view, config.weight)
        for name, config in configs.items()
    }


def _build_teacher(config: TeacherConfig, views: Mapping[str, View], key: str) -> Teacher:
    view = views[config.view]
    if config.encoder is None:
        with at(f"{key}.weights"):
            model = models.load_model(config.weights)
        refuse_other_view(model.modality, view.modality, key)
        encoder, classes = model.encoder, model.card.classes
    else:
        encoder = build_encoder(config.encoder, view.modality.shape, config.classes, f"{key}.encoder")
        classes = []
        with at(f"{key}.weights"):
            left = load_pretrained(encoder, config.weights, sha256=config.sha256, first_layer=config.first_layer)
        if left:
            raise ConfigError([f"{key}: a teacher needs all its weights, but {config.weights} does not fit "
                               f"{', '.join(left)}; check {key}.classes and {key}.first_layer"])  # fmt: skip
        tell_published(key, config, view.modality)
    return Teacher(encoder.eval().requires_grad_(False), config.view, classes, config.weight)


def inflate_teacher(config: TeacherConfig, shape: tuple[int, ...]) -> Encoder:
    """A teacher's network and weights for other input, without its classifier; the first layer is summed over channels.

    Raises:
        ValueError: the network or its weights do not fit the shape.
    """
    if config.encoder is None:
        card = models.read_card(config.weights)
        encoder: Encoder = ENCODERS.get(card.encoder)(shape, 0, **card.encoder_options)
    else:
        encoder = ENCODERS.get(config.encoder.name)(shape, 0, **config.encoder.options)
    load_pretrained(encoder, config.weights, sha256=config.sha256, first_layer="sum")
    return encoder.eval()


def teacher_classes(config: TeacherConfig, key: str) -> list[str]:
    """The names of a teacher's logits; empty if it has none, or if they are not known.

    Raises:
        ConfigError: the teacher or its stored features cannot be read.
    """
    if config.features is not None:
        with at(f"{key}.features"):
            manifest = read_manifest(to_path(config.features))
        return manifest.classes if manifest.spec.classes else []
    if config.encoder is not None:
        return []
    with at(f"{key}.weights"):
        return models.read_card(config.weights).classes


def teacher_digest(config: TeacherConfig) -> str:
    """The digest of a teacher's weights, for a run's identity; checks config.sha256, if given."""
    source = find(config.weights)
    if source is not None:
        check_sum(source.path, source.sha256, config.sha256)
        return source.digest
    ours = None if config.encoder else models.digest(config.weights)
    if ours is not None and config.sha256 is None:
        return ours
    path = find_weights(config.weights)
    sha256 = sha256_of(path)
    check_sum(path, sha256, config.sha256)
    return ours or sha256
