"""Measure what a student learnt: beside scratch, random weights, its teacher and chance, over seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines._config import free, number
from pipelines._schema import LookConfig


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from, and what is judged on."""

    train: str  # folder of shards: neighbours, probes and labels come from here
    test: str  # folder of shards of the same fields, never trained on


@dataclass(frozen=True)
class FewLabelsConfig:
    """Training whole encoders on few labels, the student's and the same encoder from scratch."""

    labels: list[int | None] = number([1, 5, 10, 50, None], least=1)  # a class; null: all there are
    steps: int = number(400, least=1)  # optimiser steps with all labels
    least_steps: int = number(120, least=1)  # optimiser steps with the fewest
    epochs: float = number(60.0, above=0)  # passes over the labelled pairs, within these bounds
    batch_size: int = number(64, least=2)  # pairs a step
    lr: float = number(2e-3, above=0)  # peak learning rate of AdamW
    weight_decay: float = number(0.05, least=0)  # of AdamW
    look: LookConfig = field(default_factory=LookConfig)  # the random window of training samples


@dataclass(frozen=True)
class QuantityConfig:
    """A quantity read off the embedding by its nearest neighbours."""

    fact: str  # its name in the pairs' JSON, a list of numbers
    columns: list[int] = number(least=0)  # which of these numbers
    unit: str = ""  # for the report
    neighbours: int = number(5, least=1)  # training pairs whose mean is the answer


@dataclass(frozen=True)
class Config:
    """What `crossmodal evaluate` reads."""

    data: DataConfig  # the two folders of shards
    students: dict[str, list[str]]  # by name, the folders of finished transfers; several differ by their seeds
    teacher: str | None = None  # name of the teacher in the students' configs to compare with; null: the first
    few_labels: FewLabelsConfig | None = field(default_factory=FewLabelsConfig)  # null: not measured
    quantity: QuantityConfig | None = None  # null: none
    retrieve_at: list[int] = number([1, 5, 10], least=1)  # k of recall at k
    neighbours: int = number(20, least=1)  # of the kNN classifier
    seeds: int = number(3, least=1)  # repetitions: label choices, new weights, and students where there are several
    workers: int = number(2, least=0, free=True)  # processes that read and decode
    output: str = free("runs/evaluate")  # the run's folder


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads."""
    from crossmodal import export
    from pipelines import _build as build
    from pipelines._config import at

    found = {
        "data.train": build.open_shards(config.data.train, "data.train").manifest.digest,
        "data.test": build.open_shards(config.data.test, "data.test").manifest.digest,
    }
    with at("students"):
        for name, folders in config.students.items():
            found[f"students.{name}"] = " ".join(export.digest(folder) for folder in folders)
    return found


def run(config: Config, path: Path) -> None:
    """Measures everything and writes report.json and what the report draws."""
    from pipelines._evaluation import Evaluation
    from pipelines._run import RunFolder, is_main

    if not is_main():
        return
    run = RunFolder.of(config.output, "evaluate", config, inputs(config))
    if not run.is_done():
        run.finish(Evaluation(config, run).measure())
