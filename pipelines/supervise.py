"""Train an encoder with labels, as a teacher or as a supervised baseline."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import ConfigError
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
    """Trains and exports the encoder."""
    from crossmodal import OBJECTIVES
    from crossmodal.data.splits import unbalanced_classes
    from pipelines.building.data import leave_out, open_shards, open_views
    from pipelines.building.encoders import build_student
    from pipelines.building.exporting import export_student
    from pipelines.building.objectives import (
        build_terms,
        build_transfer,
        check_alignment,
        student_classes,
        views_read,
    )
    from pipelines.runs.console import say
    from pipelines.runs.folder import RunFolder
    from pipelines.training.accelerator import open_accelerator
    from pipelines.training.loop import Training, seed_everything

    run = RunFolder.open("supervise", config, inputs)
    if run.is_done():
        return
    accelerator = open_accelerator(config.train, run.path)
    shards = open_shards(config.data, "data")
    views = open_views(shards, config.views, {"student": config.student})
    read = {config.student.view} | views_read(config.objectives) & views.keys()
    shards = leave_out(shards, [config.views[name].modality for name in sorted(read)], "data")
    counts = {name: count for name, count in shards.manifest.labels.items() if count}
    by_class = any(OBJECTIVES.get(objective.name).needs_labels for objective in config.objectives.values())
    if by_class and len(counts) < 2:
        labels = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"
        raise ConfigError(
            [f"data: pairs of {config.data} must have labels of two or more classes to supervise with, got {labels}"]
        )
    labelled = sum(counts.values())
    if by_class and labelled < len(shards):
        say(f"{run.path}: {labelled} of {len(shards)} pairs have a label, of {len(counts)} classes")
    for line in unbalanced_classes(counts, config.data) if by_class else ():
        say(f"{run.path}: {line}")
    seed_everything(config.seed, "weights")
    classes = student_classes(config.objectives, shards.manifest.classes, {})
    student = build_student(config.student, views, len(classes))
    terms = build_terms(config.objectives, student.spec, {}, shards.manifest, chunk=config.train.chunk)
    check_alignment(terms, config.student.view, {}, views)
    module = build_transfer(student, config.student.view, terms, chunk=config.train.chunk)
    seen = {name: views[name] for name in read}  # others are not read
    training = Training(accelerator, run, config.train, module, step, shards, seen, config.seed)
    figures = training.fit()
    if accelerator.is_main_process:
        modality = views[config.student.view].modality
        export_student(run.path / "model", config, module, modality, classes=classes, teachers={})
    run.finish({"figures": figures, "labelled": labelled})
