"""The config of `crossmodal evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas.common import CropConfig, HeldOutConfig

if TYPE_CHECKING:
    from pipelines.schemas import certify, pretrain, supervise, transfer

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

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    labels: list[int | None] = number([1, 5, 10, 50, None], least=1)  # a class, if every one has them; null: all
    whole: Literal["all", "scratch", "none"] = "all"  # encoders that are trained: students and scratch, scratch, none
    steps: int = number(400, least=1)  # optimiser steps with all labels
    least_steps: int = number(120, least=1)  # optimiser steps with the fewest
    epochs: float = number(60.0, above=0)  # passes over the labelled pairs, within these bounds
    batch_size: int = number(64, least=2)  # pairs a step
    lr: float = number(2e-3, above=0)  # peak learning rate of AdamW
    weight_decay: float = number(0.05, least=0)  # of AdamW
    crop: CropConfig = field(default_factory=CropConfig)  # the random window of training samples

    def __post_init__(self) -> None:
        if self.crop.windows is not None:
            raise FieldError("crop.windows", f"must be null, a new window every time, got {self.crop.windows}")
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

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    per_class: int = number(50, least=2)  # pairs of a class; without classes, so many pairs times 10
    crop: CropConfig = field(default_factory=lambda: CropConfig(scale=(0.2, 1.0)))  # the random windows

    def __post_init__(self) -> None:
        if self.crop.windows is not None:
            raise FieldError("crop.windows", f"must be null, a new window every time, got {self.crop.windows}")


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
    workers: int = number(2, least=0, runtime_only=True)  # processes that read and decode
    output: str = runtime_only("runs/evaluate")  # the run's folder

    def __post_init__(self) -> None:
        if len({*self.retrieve_at}) < len(self.retrieve_at):
            raise FieldError("retrieve_at", f"must be different numbers, got {self.retrieve_at}")
        if not self.students:
            raise FieldError("students", "must name at least one finished run")
        for name, folders in self.students.items():
            if not 1 <= len(folders) <= self.seeds:
                raise FieldError(f"students.{name}", f"must have from 1 folder to one for each of the {self.seeds} "
                                 f"seeds, got {len(folders)}")  # fmt: skip
