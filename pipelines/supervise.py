"""Train an encoder with labels, as a teacher, a supervised baseline, or a classifier from a trained student."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.schemas.supervise import Config

if TYPE_CHECKING:
    from torch import nn

    from crossmodal.modules.base import Losses
    from crossmodal.objectives import Batch


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the inputs of the run."""
    from pipelines.building.data import open_shards
    from pipelines.building.encoders import student_digest

    return {"data": open_shards(config.data, "data").manifest.digest} | student_digest(config.student)


def step(model: "nn.Module", batch: "Batch") -> "Losses":
    """The losses of a batch."""
    return model(batch, {})


def run(config: Config, path: Path) -> None:
    """Trains and exports the encoder; held-out pairs, if there are any, judge and calibrate its classifier."""
    from crossmodal import OBJECTIVES
    from crossmodal.modules.transfer import Transfer
    from pipelines.building.classifier import judge_classifier, refuse_unreadable
    from pipelines.building.compatibility import check_start
    from pipelines.building.data import open_views
    from pipelines.building.encoders import build_student
    from pipelines.building.exporting import export_student
    from pipelines.building.labelled import open_labelled
    from pipelines.building.objectives import (
        build_terms,
        build_transfer,
        check_alignment,
        student_classes,
        views_read,
    )
    from pipelines.config import at
    from pipelines.runs.console import say
    from pipelines.runs.folder import RunFolder
    from pipelines.training.accelerator import open_accelerator
    from pipelines.training.loop import seed_everything
    from pipelines.training.trials import training_for

    run = RunFolder.open("supervise", config, inputs)
    config = run.config  # settled
    if config.trial != "overfit" and run.is_done():
        return
    accelerator = open_accelerator(config.train, run.path)
    by_class = any(OBJECTIVES.get(objective.name).needs_labels for objective in config.objectives.values())
    read = {config.student.view} | views_read(config.objectives) & config.views.keys()
    parts = open_labelled(config, [config.views[name].modality for name in sorted(read)], by_class=by_class)
    views = open_views(parts.train, config.views, {"student": config.student})
    view = views[config.student.view]
    card = check_start(config.student, view.modality, is_frozen=config.train.freeze is not None)
    for note in parts.notes:
        say(f"{run.path}: {note}")
    if parts.validation is not None and config.train.on_error == "stop":
        refuse_unreadable(parts.validation, view)
    seed_everything(config.seed, "weights")
    classes = student_classes(config.objectives, parts.train.manifest.classes, {})
    other_classes = card is not None and card.classes != classes
    student = build_student(config.student, views, len(classes), new_classifier=other_classes)
    terms = build_terms(config.objectives, student.spec, {}, parts.train.manifest, chunk=config.train.chunk)
    check_alignment(terms, config.student.view, {}, views)
    module = build_transfer(student, config.student.view, terms, chunk=config.train.chunk)
    if config.train.freeze:
        with at("train"):
            module.freeze_trunk()
    seen = {name: views[name] for name in read}  # others are not read
    training = training_for(config.trial)(accelerator, run, config.train, module, step, parts.train, seen, config.seed)
    figures, trained, temperature = training.fit(), training.module, None
    if accelerator.is_main_process:
        assert isinstance(trained, Transfer)
        if parts.validation is not None:
            judgement = judge_classifier(trained.student.to(accelerator.device), view, parts.validation)
            figures["validation"], temperature = judgement.figures, judgement.temperature
            for note in judgement.notes:
                say(f"{run.path}: {note}")
        export_student(
            run.path / "model", config, trained, view.modality, classes=classes, teachers={}, temperature=temperature
        )
    run.finish({"figures": figures, "labelled": parts.labelled})
