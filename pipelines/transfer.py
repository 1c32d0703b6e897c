"""Teach a student encoder on one modality with frozen teachers on others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines._config import ConfigError, free
from pipelines._schema import (
    HeldOutConfig,
    ObjectiveConfig,
    PrepareConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    ViewConfig,
    check_names,
)

if TYPE_CHECKING:
    from torch import nn

    from crossmodal.modules.base import Losses
    from crossmodal.objectives import Batch
    from pipelines._build import AnyTeacher


@dataclass(frozen=True)
class Config:
    """What `crossmodal transfer` reads."""

    data: str  # folder of paired shards
    views: dict[str, ViewConfig]  # named uses of modalities; teachers and student each name one
    teachers: dict[str, TeacherConfig]  # frozen networks by name
    student: StudentConfig  # the network that learns
    objectives: dict[str, ObjectiveConfig]  # what is minimised, by name, each with a weight
    prepare: PrepareConfig = field(default_factory=PrepareConfig)  # what comes before, for objectives that want it
    train: TrainConfig = field(default_factory=TrainConfig)  # how the student is trained
    held_out: HeldOutConfig | None = None  # pairs of the data that are not trained on, to tune by; null: none
    seed: int = 0  # of weights, order, windows, augmentation and negatives
    output: str = free("runs/transfer")  # the run's folder

    def __post_init__(self) -> None:
        check_names(self, self.teachers)


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads."""
    from crossmodal.data.features import read_manifest
    from pipelines import _build as build
    from pipelines._config import at

    found = {"data": build.open_shards(config.data, "data").manifest.digest}
    for name, teacher in config.teachers.items():
        with at(f"teachers.{name}.weights"):
            found[f"teachers.{name}"] = build.teacher_digest(teacher)
        if teacher.features is not None:
            with at(f"teachers.{name}.features"):
                found[f"teachers.{name}.features"] = read_manifest(Path(teacher.features)).digest
    return found | build.student_digest(config.student)


def step(model: "nn.Module", batch: "Batch", teachers: "Mapping[str, AnyTeacher]") -> "Losses":
    """Teacher, student and losses meet: each teacher looks at its own view of the batch, the student at its own."""
    return model(batch, {name: teacher.look(batch) for name, teacher in teachers.items()})


def run(config: Config, path: Path) -> None:
    """Trains and exports the student."""
    from functools import partial

    from pipelines import _build as build
    from pipelines._accelerator import open_accelerator
    from pipelines._parts import build_parts
    from pipelines._run import RunFolder
    from pipelines._training import Training

    run = RunFolder.open("transfer", config, inputs)
    if run.is_done():
        return
    accelerator = open_accelerator(config.train, run.path)
    parts = build_parts(config)
    if parts.preparation is None and config.prepare != PrepareConfig():
        raise ConfigError(["prepare: none of the objectives wants a preparation (ab, fsp and ft do, at a weight above "
                           "0), so leave it out"])  # fmt: skip
    running = [teacher for teacher in parts.teachers.values() if isinstance(teacher, build.Teacher)]
    for teacher in running:
        teacher.encoder.to(accelerator.device)
    looked_at = {config.student.view, *(teacher.view for teacher in running)}
    seen = {name: view for name, view in parts.views.items() if name in looked_at}  # what nobody looks at is not read
    shared = (partial(step, teachers=parts.teachers), parts.shards, seen, config.seed, parts.kept)
    figures = {}
    if parts.preparation is not None:
        before = config.prepare.over(config.train)
        figures["preparation"] = Training(accelerator, run, before, parts.preparation, *shared, phase="prepare").fit()
        accelerator = open_accelerator(config.train, run.path)  # the next phase's loss scale is its own
    figures |= Training(accelerator, run, config.train, parts.module, *shared).fit()
    if accelerator.is_main_process:
        modality = parts.views[config.student.view].modality
        build.export_student(
            run.path / "model", config, parts.module, modality, classes=parts.classes, teachers=parts.teachers
        )
    run.finish({"figures": figures})
