"""The config of `crossmodal transfer`."""

from dataclasses import dataclass, field

from pipelines.config import runtime_only
from pipelines.schemas.common import (
    CacheConfig,
    HeldOutConfig,
    ObjectiveConfig,
    PrepareConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    Trial,
    ViewConfig,
    check_names,
    check_places,
)


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal transfer`."""

    data: str  # folder of paired shards, or its URL in a store, such as s3://bucket/pairs/train
    views: dict[str, ViewConfig]  # inputs by name; the student and every teacher name one
    teachers: dict[str, TeacherConfig]  # frozen encoders by name
    student: StudentConfig  # the encoder that is trained
    # losses by name; the total is their weighted sum; none: those of docs/recipes.md, by what views and teachers are
    objectives: dict[str, ObjectiveConfig] = field(default_factory=dict)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)  # phase before the main one, for ab, fsp and ft
    train: TrainConfig = field(default_factory=TrainConfig)  # optimisation, data order and checkpoints
    held_out: HeldOutConfig | None = None  # keep part of the data for tuning; null: train on all
    seed: int = 0  # seed of weights, order, crops, augmentation and negatives
    cache: CacheConfig | None = runtime_only(None)  # local copies of shards in a store; null: none; see docs/scale.md
    output: str = runtime_only("runs/transfer")  # folder of the run
    # dry_run: take some steps and tell the costs; overfit: learn one batch; replay: find a loss that is not finite
    trial: Trial | None = runtime_only(None)

    def __post_init__(self) -> None:
        check_places(data=self.data)
        check_names(self, self.teachers)
