"""Measure what a student learnt: beside scratch, random weights, its teacher and chance, over seeds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modalities.common.catalogue import suggest
from pipelines._config import ConfigError, FieldError, free, leaves, load, number, to_dict
from pipelines._schema import HeldOutConfig, LookConfig

if TYPE_CHECKING:
    from crossmodal.data.shards import Shards
    from pipelines import certify, pretrain, supervise, transfer

    Trained = transfer.Config | supervise.Config | pretrain.Config | certify.Config


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from, and what is judged on."""

    train: str  # folder of shards: neighbours, probes and labels come from here
    test: str | None = None  # folder of shards of the same fields, never trained on; null: the pairs held out of train
    held_out: HeldOutConfig | None = None  # as in the students' transfers, in place of test

    def __post_init__(self) -> None:
        if (self.test is None) == (self.held_out is None):
            raise FieldError("test", "must be given, or held_out in its place, but not both")


@dataclass(frozen=True)
class FewLabelsConfig:
    """Learning from few labels: probes of frozen embeddings, and whole encoders from the students and from scratch."""

    labels: list[int | None] = number([1, 5, 10, 50, None], least=1)  # a class, if every one has them; null: all
    whole: Literal["all", "scratch", "none"] = "all"  # encoders that are trained: students and scratch, scratch, none
    steps: int = number(400, least=1)  # optimiser steps with all labels
    least_steps: int = number(120, least=1)  # optimiser steps with the fewest
    epochs: float = number(60.0, above=0)  # passes over the labelled pairs, within these bounds
    batch_size: int = number(64, least=2)  # pairs a step
    lr: float = number(2e-3, above=0)  # peak learning rate of AdamW
    weight_decay: float = number(0.05, least=0)  # of AdamW
    look: LookConfig = field(default_factory=LookConfig)  # the random window of training samples

    def __post_init__(self) -> None:
        if self.look.windows is not None:
            raise FieldError("look.windows", f"must be null, a new window every time, got {self.look.windows}")
        if len({*self.labels}) < len(self.labels):
            raise FieldError("labels", f"must be different counts, got {self.labels}")


@dataclass(frozen=True)
class QuantityConfig:
    """A quantity read off the embedding by its nearest neighbours."""

    fact: str  # its name in the pairs' JSON, a list of numbers
    columns: list[int] = number(least=0)  # which of these numbers
    unit: str = ""  # for the report
    neighbours: int = number(5, least=1)  # training pairs whose mean is the answer


@dataclass(frozen=True)
class DiagnosticsConfig:
    """Five figures that tell why an encoder falls behind, on test pairs and two random looks at each."""

    per_class: int = number(50, least=2)  # pairs of a class; without classes, so many pairs times 10
    look: LookConfig = field(default_factory=lambda: LookConfig(scale=(0.2, 1.0)))  # the random windows

    def __post_init__(self) -> None:
        if self.look.windows is not None:
            raise FieldError("look.windows", f"must be null, a new window every time, got {self.look.windows}")


@dataclass(frozen=True)
class Config:
    """What `crossmodal evaluate` reads."""

    data: DataConfig  # the two folders of shards
    students: dict[str, list[str]]  # by name, folders of finished runs that train; several differ by their seeds alone
    teacher: str | None = None  # name of the teacher in transfers' configs to compare with; null: the first
    few_labels: FewLabelsConfig | None = field(default_factory=FewLabelsConfig)  # null: not measured
    quantity: QuantityConfig | None = None  # null: none
    diagnostics: DiagnosticsConfig | None = None  # null: not measured
    retrieve_at: list[int] = number([1, 5, 10], least=1)  # k of recall at k; only a pair's own other side is right
    neighbours: int = number(20, least=1)  # of the kNN classifier
    seeds: int = number(3, least=1)  # repetitions: label choices, new weights, and students where there are several
    workers: int = number(2, least=0, free=True)  # processes that read and decode
    output: str = free("runs/evaluate")  # the run's folder

    def __post_init__(self) -> None:
        if len({*self.retrieve_at}) < len(self.retrieve_at):
            raise FieldError("retrieve_at", f"must be different numbers, got {self.retrieve_at}")
        if not self.students:
            raise FieldError("students", "must name at least one finished run")
        for name, folders in self.students.items():
            if not 1 <= len(folders) <= self.seeds:
                raise FieldError(f"students.{name}", f"must have from 1 folder to one for each of the {self.seeds} "
                                 f"seeds, got {len(folders)}")  # fmt: skip


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of what the run reads."""
    from crossmodal import export
    from pipelines import _build as build
    from pipelines._config import at

    found = {"data.train": build.open_shards(config.data.train, "data.train").manifest.digest}
    if config.data.test is not None:
        found["data.test"] = build.open_shards(config.data.test, "data.test").manifest.digest
    with at("students"):
        for name, folders in config.students.items():
            digests = [export.digest(folder) for folder in folders]
            _refuse_unlike(name, folders, digests)
            found[f"students.{name}"] = " ".join(digests)
    return found | _teacher_digest(config)


def origin(folder: str) -> "tuple[Path, Trained]":
    """The run that a student is of, and its config.

    Raises:
        ConfigError: it is no finished run of a pipeline that trains.
    """
    from pipelines import certify, pretrain, supervise, transfer
    from pipelines._run import read_report

    schemas = {"transfer": transfer.Config, "supervise": supervise.Config, "pretrain": pretrain.Config,
               "certify": certify.Config}  # fmt: skip
    for path in (Path(folder), Path(folder).parent):  # of several encoders, each has a folder in the run's
        schema = schemas.get(read_report(path).get("pipeline", ""))
        if schema is not None:
            return path, load(schema, path / "config.yaml")
    raise ConfigError([f"students: {folder} must be the folder of a finished run of {', '.join(schemas)}"])


def _refuse_unlike(name: str, folders: list[str], digests: list[str]) -> None:
    """Students of one name, whose mean is shown, differ by their seeds alone.

    Raises:
        ConfigError: one is there twice, or was trained otherwise than the first.
    """
    for place, digest in enumerate(digests):
        if (same := digests.index(digest)) < place:
            raise ConfigError([f"students.{name}: {folders[place]} has the weights of {folders[same]}, which would "
                               "count twice"])  # fmt: skip
    first, *others = [_training(folder) for folder in folders] if len(folders) > 1 else [{}]
    for folder, other in zip(folders[1:], others, strict=True):
        lines = [f"  {key}: {first.get(key, 'absent')} and {other.get(key, 'absent')}"
                 for key in dict.fromkeys([*first, *other]) if first.get(key) != other.get(key)]  # fmt: skip
        if lines:
            raise ConfigError([f"students.{name}: {folders[0]} and {folder} differ in more than their seed, so give "
                               "each a name of its own. What differs:", *lines])  # fmt: skip


def _training(folder: str) -> dict[str, str]:
    """What students that differ by their seeds share, by dotted key; teachers and starts may have a seed's weights."""
    from pipelines._run import RunFolder

    path, config = origin(folder)
    before = RunFolder.of(path, "", config, {}).before
    assert before is not None
    read = {"pipeline": before["pipeline"], "data": before["inputs"]["data"]}
    plain = to_dict(config, free=False, whole=True) | read
    own = re.compile(r"seed|.+\.(weights|sha256|features)")
    return {key: value for key, value in leaves(plain).items() if not own.fullmatch(key)}


def taught(config: Config, folder: str) -> "tuple[str, transfer.Config] | None":
    """The teacher that a student is compared with, and the config of the transfer by which it taught, if there was one.

    Raises:
        ConfigError: the folder is not that of a finished run, or of a transfer without such a teacher.
    """
    from pipelines import transfer

    _, found = origin(folder)
    if not isinstance(found, transfer.Config) or not (found.teachers or config.teacher):
        return None
    name = config.teacher or next(iter(found.teachers), "")
    if name not in found.teachers:
        raise ConfigError([f"teacher: {folder} was not taught by {name!r}{suggest(name, list(found.teachers))}"])
    return name, found


def _teacher_digest(config: Config) -> dict[str, str]:
    """Names the weights of the one teacher that all students that had one are compared with; empty if none had.

    Raises:
        ConfigError: the students had several, or it has other weights now than when it taught.
    """
    from pipelines._build import teacher_digest
    from pipelines._run import RunFolder

    digests = set()
    for folder in [folder for folders in config.students.values() for folder in folders]:
        path, trained = origin(folder)
        _refuse_other_parts(config.data, trained, folder)
        if (found := taught(config, folder)) is None:
            continue
        name, transfer = found
        digests.add(teacher_digest(transfer.teachers[name]))
        before = RunFolder.of(path, "transfer", transfer, {}).before
        if before is None or digests != {before["inputs"][f"teachers.{name}"]}:
            raise ConfigError([f"students: teacher {name!r} of {folder} is not the one that the others had, or has "
                               f"other weights now than when it taught; train the student again"])  # fmt: skip
    return {"teacher": digests.pop()} if digests else {}


def _refuse_other_parts(data: DataConfig, trained: "Trained", folder: str) -> None:
    """Pairs that a student was trained on are not judged by.

    Raises:
        ConfigError: what is held out now was not held out then.
    """
    same = Path(data.train).resolve() == Path(trained.data).resolve()
    if data.held_out is not None and not (same and data.held_out == getattr(trained, "held_out", None)):
        raise ConfigError([f"data.held_out: {folder} was trained on {trained.data} without holding out the same "
                           "pairs, so it may have seen these"])  # fmt: skip


def open_data(data: DataConfig) -> "tuple[Shards, Shards]":
    """The pairs to learn from, and those to judge by."""
    from pipelines import _build as build

    train, held = build.open_parts(data.train, data.held_out, "data.held_out" if data.held_out else "data.train")
    if held is not None:
        return train, held
    assert data.test is not None
    return train, build.open_shards(data.test, "data.test")


def run(config: Config, path: Path) -> None:
    """Measures everything and writes report.json and what the report draws."""
    from pipelines._evaluation import Evaluation
    from pipelines._run import RunFolder, is_main

    run = RunFolder.open("evaluate", config, inputs)
    if not run.is_done() and is_main():
        run.finish(Evaluation(config, run).measure())
