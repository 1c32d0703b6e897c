"""Train an encoder with labels: a teacher in the making, or a supervised baseline."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines._config import ConfigError, free
from pipelines._schema import ObjectiveConfig, StudentConfig, TrainConfig, ViewConfig, check_names

if TYPE_CHECKING:
    from torch import nn

    from crossmodal.modules.base import Losses
    from crossmodal.objectives import Batch


@dataclass(frozen=True)
class Config:
    """What `crossmodal supervise` reads."""

    data: str  # folder of labelled shards
    views: dict[str, ViewConfig]  # named uses of modalities
    student: StudentConfig  # the network that is trained
    objectives: dict[str, ObjectiveConfig] = field(  # losses that need no teacher
        default_factory=lambda: {"cross_entropy": ObjectiveConfig("cross_entropy")}
    )
    train: TrainConfig = field(default_factory=TrainConfig)  # how it is trained
    seed: int = 0  # of weights, order, windows and augmentation
    output: str = free("runs/supervise")  # the run's folder

    def __post_init__(self) -> None:
        check_names(self, {})


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads."""
    from pipelines import _build as build

    return {"data": build.open_shards(config.data, "data").manifest.digest} | build.student_digest(config.student)


def step(model: "nn.Module", batch: "Batch") -> "Losses":
    """The student meets the labels."""
    return model(batch, {})


def run(config: Config, path: Path) -> None:
    """Trains and exports the encoder."""
    from pipelines import _build as build
    from pipelines._accelerator import open_accelerator
    from pipelines._run import RunFolder, say
    from pipelines._training import Training, seed_everything

    run = RunFolder.open("supervise", config, inputs)
    if run.is_done():
        return
    accelerator = open_accelerator(config.train, run.path)
    shards = build.open_shards(config.data, "data")
    views = build.open_views(shards, config.views, {"student": config.student})
    counts = {name: count for name, count in shards.manifest.labels.items() if count}
    if len(counts) < 2:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"
        raise ConfigError(
            [f"data: pairs of {config.data} must have labels of two or more classes to supervise with, got {told}"]
        )
    labelled = sum(counts.values())
    if labelled < len(shards):
        say(f"{run.path}: {labelled} of {len(shards)} pairs have a label, of {len(counts)} classes")
    seed_everything(config.seed, "weights")
    student = build.build_student(config.student, views, len(shards.manifest.classes))
    terms = build.build_terms(config.objectives, student.spec, {}, shards.manifest, chunk=config.train.chunk)
    module = build.build_transfer(student, config.student.view, terms, chunk=config.train.chunk)
    training = Training(accelerator, run, config.train, module, step, shards, views, config.seed)
    figures = training.fit()
    if accelerator.is_main_process:
        modality = views[config.student.view].modality
        build.export_student(run.path / "model", config, module, modality, classes=shards.manifest.classes, teachers={})
    run.finish({"figures": figures, "labelled": labelled})
