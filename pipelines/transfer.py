"""Train a student encoder on one modality with frozen teachers on others."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import ConfigError
from pipelines.schemas.common import PrepareConfig
from pipelines.schemas.transfer import Config

if TYPE_CHECKING:
    from torch import nn

    from crossmodal.modules.base import Losses
    from crossmodal.modules.transfer import Transfer
    from crossmodal.objectives import Batch
    from pipelines.building.teachers import AnyTeacher


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the inputs of the run."""
    from crossmodal.data.features import read_manifest
    from pipelines.building.data import open_shards
    from pipelines.building.encoders import student_digest
    from pipelines.building.teachers import teacher_digest
    from pipelines.config import at

    digests = {"data": open_shards(config.data, "data").manifest.digest}
    for name, teacher in config.teachers.items():
        with at(f"teachers.{name}.weights"):
            digests[f"teachers.{name}"] = teacher_digest(teacher)
        if teacher.features is not None:
            with at(f"teachers.{name}.features"):
                digests[f"teachers.{name}.features"] = read_manifest(Path(teacher.features)).digest
    return digests | student_digest(config.student)


def step(model: "nn.Module", batch: "Batch", teachers: "Mapping[str, AnyTeacher]") -> "Losses":
    """The losses of a batch. Each teacher and the student read their own view of it."""
    return model(batch, {name: teacher.forward(batch) for name, teacher in teachers.items()})


def observe(module: "Transfer", teachers: "Mapping[str, AnyTeacher]", batch: "Batch") -> None:
    """Adds a batch to the statistics of the objectives that need some before training."""
    module.calibrate({name: teacher.forward(batch) for name, teacher in teachers.items()})


def run(config: Config, path: Path) -> None:
    """Trains and exports the student."""
    from functools import partial

    from crossmodal.modules.transfer import Transfer
    from pipelines.building.exporting import export_student
    from pipelines.building.teachers import Teacher
    from pipelines.building.transfer import build_parts
    from pipelines.runs.folder import RunFolder
    from pipelines.training.accelerator import open_accelerator
    from pipelines.training.launcher import is_sharded, refuse_sharded
    from pipelines.training.sharding import shard
    from pipelines.training.trials import training_for

    run = RunFolder.open("transfer", config, inputs)
    config = run.config  # settled
    if config.trial != "overfit" and run.is_done():
        return
    accelerator = open_accelerator(config.train, run.path)
    parts = build_parts(config)
    if parts.preparation is None and config.prepare != PrepareConfig():
        raise ConfigError(["prepare: no objective has a preparation phase (ab, fsp and ft do, at a weight above 0); "
                           "leave it out"])  # fmt: skip
    running = {name: teacher for name, teacher in parts.teachers.items() if isinstance(teacher, Teacher)}
    if config.trial == "replay":
        refuse_sharded("--replay")
    if parts.preparation is not None:
        refuse_sharded("prepare, the phase before the main one that ab, fsp and ft have,")
    for teacher in running.values():
        if is_sharded():
            shard(teacher.encoder, accelerator.device)
        else:
            teacher.encoder.to(accelerator.device)
    names = {config.student.view, *parts.module.reads, *(teacher.view for teacher in running.values())}
    views = {name: view for name, view in parts.views.items() if name in names}  # unused views are not read
    shared = (partial(step, teachers=parts.teachers), parts.shards, views, config.seed, parts.kept)
    training = partial(training_for(config.trial), beside={name: each.encoder for name, each in running.items()})
    figures = {}
    if parts.preparation is not None and config.trial in (None, "replay"):
        before = config.prepare.over(parts.train)
        figures["preparation"] = training(accelerator, run, before, parts.preparation, *shared, phase="prepare").fit()
        accelerator = open_accelerator(config.train, run.path)  # each phase has its own loss scale
    calibrate = partial(observe, parts.module, parts.teachers) if parts.module.needs_calibration else None
    main = training(accelerator, run, parts.train, parts.module, *shared, calibrate=calibrate)
    figures |= main.fit()
    if accelerator.is_main_process:
        assert isinstance(main.module, Transfer)
        modality = parts.views[config.student.view].modality
        export_student(
            run.path / "model", config, main.module, modality, classes=parts.classes, teachers=parts.teachers
        )
    run.finish({"figures": figures})
