"""Objectives from configs, and the module that trains with them."""

import ast
from collections.abc import Mapping
from typing import Any

from crossmodal import OBJECTIVES
from crossmodal.data.features import sizes
from crossmodal.data.manifest import Manifest
from crossmodal.data.views import Picture, View
from crossmodal.encoders import Encoder, Spec
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.objectives import Objective
from modalities import Modality
from modalities.common.catalogue import suggest
from modalities.labels import Labels
from pipelines.building.teachers import AnyTeacher, Teacher
from pipelines.config import ConfigError, at
from pipelines.schemas.common import ObjectiveConfig


def student_classes(
    objectives: Mapping[str, ObjectiveConfig], labels: list[str], teachers: Mapping[str, AnyTeacher]
) -> list[str]:
    """Names of the student's logits: the data's classes or, if it has none, those of the teachers it copies.

    The list is empty if no objective reads logits, because DDP needs a gradient for every weight.

    Raises:
        ConfigError: a teacher whose logits are copied has other classes.
    """
    classes: list[str] = []
    for name, config in objectives.items():
        kind = OBJECTIVES.get(config.name)
        if not kind.needs_logits:
            continue
        classes = classes or labels
        for teacher in (config.teachers or teachers) if kind.uses_teacher else ():
            theirs = teachers[teacher].classes
            classes = classes or theirs or [str(number) for number in range(teachers[teacher].spec.classes)]
            if theirs and theirs != classes:
                raise ConfigError([f"objectives.{name}: the classes of teacher {teacher!r}, {', '.join(theirs)}, "
                                   f"must be the student's, {', '.join(classes)}"])  # fmt: skip
    return classes


def views_read(objectives: Mapping[str, ObjectiveConfig]) -> set[str]:
    """The names that objectives have in their option `view`, for views of label maps that they read themselves."""
    options = {name: OBJECTIVES.options(config.name).get("view") for name, config in objectives.items()}
    return {
        str(objectives[name].options.get("view", ast.literal_eval(option.default or "None")))
        for name, option in options.items()
        if option is not None
    }


def build_terms(
    configs: Mapping[str, ObjectiveConfig],
    student: Spec,
    teachers: Mapping[str, AnyTeacher],
    held: Manifest,
    *,
    chunk: int | None = None,
) -> dict[str, Term]:
    """Every objective, once for each of its teachers; its weight is multiplied by the teacher's.

    With `chunk`, objectives see no maps of the student.

    Raises:
        ConfigError: an objective cannot be built, or needs something that the pairs lack.
    """
    if chunk is not None:
        try:
            return build_terms(configs, Spec(student.dim, (), student.classes), teachers, held)
        except ConfigError as error:
            build_terms(configs, student, teachers, held)  # an error that has another cause is raised as it is
            problems = [f"{problem} (with train.chunk objectives see no maps)" for problem in error.problems]
            raise ConfigError(problems) from error
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
        term.objective.count_classes([held.labels.get(label, 0) for label in held.classes])
    return terms


def _refuse_lacking(name: str, objective: Objective | type[Objective], held: Manifest) -> None:
    """Refuses an objective that needs something the pairs lack; an instance may need more than its class."""
    if objective.needs_labels and not any(held.labels.values()):
        raise ConfigError([f"objectives.{name} needs labels, and the pairs have none"])
    if objective.needs_groups and not held.has_groups:
        raise ConfigError([f"objectives.{name} needs groups, and the pairs have none"])


def _build_objective(
    kind: type[Objective], student: Spec, teacher: AnyTeacher, pairs: int, **options: Any
) -> Objective:
    """An objective on a teacher's features.

    Raises:
        ValueError: it cannot be built; the message says if it could with more of the features cached.
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
            f"{error}. Only {', '.join(sizes(teacher.spec))} of {teacher.name!r} are cached: cache more (crossmodal "
            "features with maps=true, and preactivations=true if needed), or run the teacher (features: null)"
        ) from error


def check_alignment(
    terms: Mapping[str, Term], student: str, teachers: Mapping[str, AnyTeacher], views: Mapping[str, View]
) -> None:
    """Refuses objectives that compare maps place by place between views that are not aligned, or read no label map.

    Raises:
        ConfigError: names the first of them and both views.
    """
    own = views[student]
    for name, term in terms.items():
        key = f"objectives.{name.partition('.')[0]}"
        if term.objective.reads is not None:
            _check_labels(f"{key}.view", term.objective, views)
        if not term.objective.needs_alignment:
            continue
        other = teachers[term.teacher].view if term.teacher is not None else term.objective.reads
        assert other is not None
        view = views[other]
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
        if not _show_one_region(own.modality, view.modality):
            told = [f"{name!r} ({each.shape[-2]} x {each.shape[-1]}, fit: {each.fit})"
                    for name, each in ((student, own.modality), (other, view.modality))]  # fmt: skip
            raise ConfigError([
                f"{key} compares maps place by place, but views {told[0]} and {told[1]} show different regions of a "
                "picture; give both the same height : width and the same fit, or take an objective on embeddings"
            ])  # fmt: skip


def _check_labels(key: str, objective: Objective, views: Mapping[str, View]) -> None:
    """Refuses a view that an objective reads as label maps if it is none, or has another number of classes."""
    assert objective.reads is not None
    if objective.reads not in views:
        raise ConfigError([f"{key} must be one of the views, got {objective.reads!r}"
                           f"{suggest(objective.reads, list(views))}"])  # fmt: skip
    modality = views[objective.reads].modality
    if not isinstance(modality, Labels):
        raise ConfigError([f"{key} must be a view of modality labels, got {objective.reads!r}"])
    if len(modality.classes) != objective.classes:
        raise ConfigError([f"{key.removesuffix('view')}classes must be {len(modality.classes)}, the number of classes "
                           f"of view {objective.reads!r}, got {objective.classes}"])  # fmt: skip


def _show_one_region(one: Modality, other: Modality) -> bool:
    """True if two views show the same region of every picture."""
    if one.plane != "picture" or one.fit == other.fit == "stretch":
        return True
    (*_, height, width), (*_, tall, wide) = one.shape, other.shape
    return one.fit == other.fit and Picture(width, height).fits(wide, tall)


def build_transfer(student: Encoder, view: str, terms: dict[str, Term], *, chunk: int | None = None) -> Transfer:
    """The module that is trained."""
    with at("objectives" if chunk is None else "train"):
        return Transfer(student, view, terms, chunk=chunk)


def build_phases(
    student: Encoder, view: str, terms: dict[str, Term], *, chunk: int | None = None
) -> tuple[Transfer | None, Transfer]:
    """The modules of the preparation (or None) and of the main phase; shared weights are the same tensors.

    An objective of weight 0 is not prepared.

    Raises:
        ConfigError: no objective is left for the main phase.
    """
    before, main = {}, {}
    for name, term in terms.items():
        prepared = term.objective.preparation()
        if prepared is not None and term.weight:
            weight = term.weight if prepared is term.objective else 1.0  # no other objective trains its weights
            before[name] = Term(prepared, weight, term.teacher)
        if not term.objective.only_prepares:
            main[name] = term
    if before and not main:
        raise ConfigError([f"objectives: {', '.join(before)} trains in the preparation only, so the main phase has "
                           "no objective; add another objective, or set its option when to both"])  # fmt: skip
    first = build_transfer(student, view, before, chunk=chunk) if before else None
    return first, build_transfer(student, view, main or terms, chunk=chunk)  # terms: all weigh 0, which is refused
