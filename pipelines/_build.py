"""Configs -> the library's objects, with the config's key on every error."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from crossmodal import ENCODERS, OBJECTIVES, export
from crossmodal.encoders._base import Encoder, Features, Spec, cat_features
from crossmodal.encoders._weights import check_sum, find_weights, load_pretrained
from crossmodal.export import Card, Head
from crossmodal.features import FeatureManifest, FeatureShards, sizes
from crossmodal.held_out import hold_out
from crossmodal.looks import View
from crossmodal.manifest import Manifest, sha256_of
from crossmodal.objectives._base import Batch, Objective
from crossmodal.shards import Shards
from crossmodal.streams import open_view
from crossmodal.transfer import Term, Transfer
from modalities._base import Modality
from pipelines._config import ConfigError, at, to_dict
from pipelines._normalisation import published_normalisation, tell_published
from pipelines._run import say
from pipelines._schema import (
    EncoderConfig,
    HeldOutConfig,
    ObjectiveConfig,
    StudentConfig,
    TeacherConfig,
    Trained,
    ViewConfig,
)
from pipelines._sight import refuse_other_sight, tell_other_sight


@dataclass(frozen=True)
class Teacher:
    """A frozen network and the view it sees."""

    encoder: Encoder
    view: str
    classes: list[str]  # names of its logits, where they are known
    weight: float = 1.0
    chunk: int | None = None  # pairs it sees at a time; None: all

    @property
    def spec(self) -> Spec:
        """The sizes of its features."""
        return self.encoder.spec

    @torch.no_grad()
    def look(self, batch: Batch) -> Features:
        """Its features of a batch; no gradient, no running statistics."""
        inputs = batch.inputs[self.view]
        return cat_features([self.encoder(piece) for piece in inputs.split(self.chunk or len(inputs))])


@dataclass(frozen=True)
class KeptTeacher:
    """A teacher that does not run: its features come with the batch."""

    name: str
    kept: FeatureManifest
    view: str
    weight: float = 1.0

    @property
    def spec(self) -> Spec:
        """The sizes of the features that are kept."""
        return self.kept.spec

    @property
    def classes(self) -> list[str]:
        """Names of its logits, where they are known."""
        return self.kept.classes

    def look(self, batch: Batch) -> Features:
        """What was kept of it for a batch."""
        return batch.features[self.name]


AnyTeacher = Teacher | KeptTeacher


def open_shards(path: str, key: str) -> Shards:
    """The shards a config names under `key`."""
    with at(key):
        return Shards.open(path)


def open_parts(path: str, held_out: HeldOutConfig | None, key: str) -> tuple[Shards, Shards | None]:
    """The shards a config names: the pairs to learn from, and those held out of them."""
    shards = open_shards(path, key)
    with at(key):
        return (shards, None) if held_out is None else hold_out(shards, held_out.share, held_out.seed)


def open_views(
    shards: Shards,
    views: Mapping[str, ViewConfig],
    networks: Mapping[str, TeacherConfig | StudentConfig] = MappingProxyType({}),
    *,
    repeating: Collection[str] = (),
) -> dict[str, View]:
    """Every view of a config, on the shards' own description of their bytes; see `View.repeats`.

    A view that a network with published weights sees is normalised as that network was, unless the config says how.

    Args:
        shards: whose manifest describes the bytes.
        views: by name.
        networks: those that see the views, by their key in the config.
        repeating: views whose draws return with the windows.

    Raises:
        ConfigError: a view cannot be opened, or its normalisation is not that of a teacher which sees it.
    """
    opened = {}
    for name, config in views.items():
        told = config.options | published_normalisation(name, config, networks)
        with at(f"views.{name}"):
            view = open_view(shards, config.modality, aligned=config.aligned, **told)
        opened[name] = replace(view, repeats=name in repeating)
    return opened


def networks_of(
    teachers: Mapping[str, TeacherConfig], student: StudentConfig | None = None
) -> dict[str, TeacherConfig | StudentConfig]:
    """The networks of a transfer or an extraction by their key in the config."""
    named: dict[str, TeacherConfig | StudentConfig] = {f"teachers.{name}": each for name, each in teachers.items()}
    return named if student is None else named | {"student": student}


def build_encoder(config: EncoderConfig, shape: tuple[int, ...], classes: int, key: str) -> Encoder:
    """An encoder with new weights."""
    with at(key):
        return ENCODERS.get(config.name)(shape, classes, **config.options)


def build_student(config: StudentConfig, views: Mapping[str, View], classes: int, *, key: str = "student") -> Encoder:
    """The network that learns, from new or earlier weights."""
    encoder = build_encoder(config.encoder, views[config.view].modality.shape, classes, f"{key}.encoder")
    if config.weights is not None:
        with at(f"{key}.weights"):
            left = load_pretrained(encoder, config.weights, sha256=config.sha256, first_layer=config.first_layer)
            seen = tell_other_sight(find_weights(config.weights), views[config.view].modality)
        say(f"{key} begins from {config.weights}{seen}" + (f"; new: {', '.join(left)}" if left else ""))
        tell_published(key, config, views[config.view].modality)
    return encoder


def build_teachers(configs: Mapping[str, TeacherConfig], views: Mapping[str, View]) -> dict[str, Teacher]:
    """The frozen networks, each checked against the view it is given."""
    return {name: _build_teacher(config, views, f"teachers.{name}") for name, config in configs.items()}


def build_any_teachers(
    configs: Mapping[str, TeacherConfig],
    views: Mapping[str, View],
    kept: Mapping[str, FeatureShards],
    *,
    chunk: int | None = None,
) -> dict[str, AnyTeacher]:
    """All teachers in their order; only those whose features are not kept are built."""
    running = build_teachers({name: config for name, config in configs.items() if name not in kept}, views)
    return {
        name: replace(running[name], chunk=chunk)
        if name in running
        else KeptTeacher(name, kept[name].manifest, config.view, config.weight)
        for name, config in configs.items()
    }


def _build_teacher(config: TeacherConfig, views: Mapping[str, View], key: str) -> Teacher:
    view = views[config.view]
    if config.encoder is None:
        with at(f"{key}.weights"):
            model = export.load_model(config.weights)
        refuse_other_sight(model.modality, view.modality, key)
        encoder, classes = model.encoder, model.card.classes
    else:
        encoder = build_encoder(config.encoder, view.modality.shape, config.classes, f"{key}.encoder")
        classes = []
        with at(f"{key}.weights"):
            left = load_pretrained(encoder, config.weights, sha256=config.sha256, first_layer=config.first_layer)
        if left:
            raise ConfigError([f"{key}: a teacher needs all its weights, but {config.weights} does not fit "
                               f"{', '.join(left)}; look at {key}.classes and {key}.first_layer"])  # fmt: skip
        tell_published(key, config, view.modality)
    return Teacher(encoder.eval().requires_grad_(False), config.view, classes, config.weight)


def teacher_digest(config: TeacherConfig) -> str:
    """Names a teacher's weights by their bytes, for a run's identity; refuses others than config.sha256, if given."""
    ours = None if config.encoder else export.digest(config.weights)
    if ours is not None and config.sha256 is None:
        return ours
    path = find_weights(config.weights)
    sha256 = sha256_of(path)
    check_sum(path, sha256, config.sha256)
    return ours or sha256


def student_digest(config: StudentConfig, key: str = "student") -> dict[str, str]:
    """Names the weights that a student begins from by their bytes; empty for new ones."""
    with at(f"{key}.weights"):
        return {} if config.weights is None else {f"{key}.weights": sha256_of(find_weights(config.weights))}


def student_classes(
    objectives: Mapping[str, ObjectiveConfig], labels: list[str], teachers: Mapping[str, AnyTeacher]
) -> list[str]:
    """Names of the student's logits: the data's classes or, where it has none, those of the teachers it copies.

    They are empty where no objective reads logits, for DDP wants a gradient for every weight.

    Raises:
        ConfigError: a teacher whose logits are copied has other classes.
    """
    found: list[str] = []
    for name, config in objectives.items():
        kind = OBJECTIVES.get(config.name)
        if not kind.needs_logits:
            continue
        found = found or labels
        for teacher in (config.teachers or teachers) if kind.uses_teacher else ():
            theirs = teachers[teacher].classes
            found = found or theirs or [str(number) for number in range(teachers[teacher].spec.classes)]
            if theirs and theirs != found:
                raise ConfigError([f"objectives.{name}: the classes of teacher {teacher!r}, {', '.join(theirs)}, "
                                   f"must be the student's, {', '.join(found)}"])  # fmt: skip
    return found


def build_terms(
    configs: Mapping[str, ObjectiveConfig],
    student: Spec,
    teachers: Mapping[str, AnyTeacher],
    held: Manifest,
    *,
    chunk: int | None = None,
) -> dict[str, Term]:
    """Every objective, once per teacher it compares with, with the product of both weights: teachers add up.

    With `chunk` they see no maps of the student.

    Raises:
        ConfigError: an objective cannot be built, or needs what the pairs do not have.
    """
    if chunk is not None:
        try:
            return build_terms(configs, Spec(student.dim, (), student.classes), teachers, held)
        except ConfigError as error:
            build_terms(configs, student, teachers, held)  # what is wrong anyway is said as it is
            told = [f"{problem} (with train.chunk objectives see no maps)" for problem in error.problems]
            raise ConfigError(told) from error
    terms, pairs = {}, held.pairs
    for name, config in configs.items():
        kind = OBJECTIVES.get(config.name)
        _refuse_lacking(name, kind, held)
        if not kind.uses_teacher:
            if config.teachers:
                raise ConfigError([f"objectives.{name}.teachers: {config.name} compares with no teacher; leave it out"])
            with at(f"objectives.{name}"):
                terms[name] = Term(kind(student, None, pairs, **config.options), config.weight)
            continue
        chosen = list(teachers) if config.teachers is None else config.teachers
        if not chosen:
            raise ConfigError([f"objectives.{name}: {config.name} compares with a teacher, and none is named"])
        if not any(teachers[teacher].weight for teacher in chosen):
            raise ConfigError([f"objectives.{name}: its teachers, {', '.join(chosen)}, all weigh 0; raise "
                               "teachers.NAME.weight, or leave the objective out"])  # fmt: skip
        for teacher in chosen:
            with at(f"objectives.{name}"):
                objective = _build_objective(kind, student, teachers[teacher], pairs, **config.options)
            weight = config.weight * teachers[teacher].weight
            terms[name if len(chosen) == 1 else f"{name}.{teacher}"] = Term(objective, weight, teacher)
    for name, term in terms.items():
        _refuse_lacking(name, term.objective, held)
    return terms


def _refuse_lacking(name: str, objective: Objective | type[Objective], held: Manifest) -> None:
    """Refuses an objective that needs what the pairs do not have; its class alone knows less of it."""
    if objective.needs_labels and not any(held.labels.values()):
        raise ConfigError([f"objectives.{name} needs labels, and the pairs have none"])
    if objective.needs_groups and not held.groups:
        raise ConfigError([f"objectives.{name} needs groups, and the pairs have none"])


def _build_objective(
    kind: type[Objective], student: Spec, teacher: AnyTeacher, pairs: int, **options: Any
) -> Objective:
    """An objective on a teacher's features.

    Raises:
        ValueError: it cannot be built; says so where it could if more of the features were kept.
    """
    try:
        return kind(student, teacher.spec, pairs, **options)
    except ValueError as error:
        if isinstance(teacher, Teacher):
            raise
        try:
            kind(student, teacher.kept.whole, pairs, **options)
        except ValueError:
            raise error from None
        raise ValueError(
            f"{error}. Of {teacher.name!r} only {', '.join(sizes(teacher.spec))} are kept: keep more (crossmodal "
            "features with maps=true, and preactivations=true where they are needed), or let it run (features: null)"
        ) from error


def check_alignment(
    terms: Mapping[str, Term], student: str, teachers: Mapping[str, AnyTeacher], views: Mapping[str, View]
) -> None:
    """Refuses objectives that compare maps place by place between views that do not show the same at one place.

    Raises:
        ConfigError: the first of them, with both views.
    """
    own = views[student]
    for name, term in terms.items():
        if not term.objective.needs_alignment:
            continue
        assert term.teacher is not None
        other = teachers[term.teacher].view
        key, view = f"objectives.{name.partition('.')[0]}", views[other]
        if own.modality.plane != view.modality.plane:
            raise ConfigError([
                f"{key} compares maps place by place, but view {student!r} gives a {own.modality.plane} and view "
                f"{other!r} a {view.modality.plane}; take an objective on embeddings"
            ])  # fmt: skip
        if student != other and not (own.aligned and view.aligned):
            raise ConfigError([
                f"{key} compares maps place by place, so views {student!r} and {other!r} must both be aligned "
                "(aligned: true); or take an objective on embeddings"
            ])  # fmt: skip


def build_transfer(student: Encoder, view: str, terms: dict[str, Term], *, chunk: int | None = None) -> Transfer:
    """The one module that is trained."""
    with at("objectives" if chunk is None else "train"):
        return Transfer(student, view, terms, chunk=chunk)


def build_phases(
    student: Encoder, view: str, terms: dict[str, Term], *, chunk: int | None = None
) -> tuple[Transfer | None, Transfer]:
    """What is trained before the main phase, if anything is, and in it; weights that both have are the same tensors.

    What weighs 0 is not prepared.

    Raises:
        ConfigError: nothing is left for the main phase.
    """
    before, main = {}, {}
    for name, term in terms.items():
        prepared = term.objective.preparation()
        if prepared is not None and term.weight:
            weight = term.weight if prepared is term.objective else 1.0  # nothing else trains what it trains
            before[name] = Term(prepared, weight, term.teacher)
        if not term.objective.only_prepares:
            main[name] = term
    if before and not main:
        raise ConfigError([f"objectives: {', '.join(before)} is for the preparation only, so that nothing is left to "
                           "train by after it; add another objective, or set its option when to both"])  # fmt: skip
    first = build_transfer(student, view, before, chunk=chunk) if before else None
    return first, build_transfer(student, view, main or terms, chunk=chunk)  # terms: refused, for all weigh 0


def export_student(
    folder: Path,
    config: Trained,
    module: Transfer,
    modality: Modality,
    *,
    classes: list[str],
    teachers: Mapping[str, AnyTeacher],
) -> None:
    """The student in a folder of its own, with the heads by which it can be compared with its teachers."""
    heads, specs = {}, {}
    for name, term in module.terms.items():
        if term.teacher is not None and any(True for _ in term.objective.parameters()):
            objective = config.objectives[name.partition(".")[0]]
            specs[name] = Head(objective.name, objective.options, term.teacher, teachers[term.teacher].spec)
            heads[name] = term.objective
    card = _card(config.student, config.views[config.student.view], modality)
    export.save_model(folder, replace(card, classes=classes, heads=specs), module.student, heads)


def export_encoder(
    folder: Path, config: StudentConfig, views: Mapping[str, ViewConfig], opened: Mapping[str, View], encoder: Encoder
) -> None:
    """A pretrained encoder in a folder of its own."""
    export.save_model(folder, _card(config, views[config.view], opened[config.view].modality), encoder, {})


def _card(config: StudentConfig, view: ViewConfig, modality: Modality) -> Card:
    network = to_dict(config.encoder, whole=True)
    return Card(network.pop("name"), network, modality.shape, [], view.modality, asdict(modality))  # type: ignore[call-overload]
