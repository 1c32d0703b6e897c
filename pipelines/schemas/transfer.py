"""The config of `crossmodal transfer`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.config import runtime_only
from pipelines.schemas.common import (
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
    pass


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
    output: str = runtime_only("runs/transfer")  # the run's folder

    def __post_init__(self) -> None:
        check_names(self, self.teachers)
