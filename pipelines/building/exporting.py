"""Exports trained encoders to folders."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from crossmodal import models
from crossmodal.data.views import View
from crossmodal.encoders import Encoder
from crossmodal.models import Card, Head
from crossmodal.modules.transfer import Transfer
from modalities import Modality
from pipelines.building.teachers import AnyTeacher
from pipelines.config import to_dict
from pipelines.schemas.common import StudentConfig, Trained, ViewConfig


def export_student(
    folder: Path,
    config: Trained,
    module: Transfer,
    modality: Modality,
    *,
    classes: list[str],
    teachers: Mapping[str, AnyTeacher],
    temperature: float | None = None,
) -> None:
    """Writes the student to a folder, with the heads that compare it with its teachers."""
    heads, specs = {}, {}
    for name, term in module.terms.items():
        if term.teacher is not None and any(True for _ in term.objective.parameters()):
            objective = config.objectives[name.partition(".")[0]]
            specs[name] = Head(objective.name, objective.options, term.teacher, teachers[term.teacher].spec)
            heads[name] = term.objective
    card = _card(config.student, config.views[config.student.view], modality)
    models.save_model(
        folder, replace(card, classes=classes, heads=specs, temperature=temperature), module.student, heads
    )


def export_encoder(
    folder: Path, config: StudentConfig, views: Mapping[str, ViewConfig], opened: Mapping[str, View], encoder: Encoder
) -> None:
    """Writes a pretrained encoder to a folder."""
    models.save_model(folder, _card(config, views[config.view], opened[config.view].modality), encoder, {})


def _card(config: StudentConfig, view: ViewConfig, modality: Modality) -> Card:
    network = to_dict(config.network, whole=True)
    return Card(network.pop("name"), network, modality.shape, [], view.modality, modality.recorded())
