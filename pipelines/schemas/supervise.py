"""The config of `crossmodal supervise`."""

from dataclasses import dataclass, field

from pipelines.config import runtime_only
from pipelines.schemas.common import ObjectiveConfig, StudentConfig, TrainConfig, ViewConfig, check_names


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal supervise`."""

    data: str  # folder of labelled shards
    views: dict[str, ViewConfig]  # inputs by name
    student: StudentConfig  # the encoder that is trained
    objectives: dict[str, ObjectiveConfig] = field(  # losses that need no teacher
        default_factory=lambda: {"cross_entropy": ObjectiveConfig("cross_entropy")}
    )
    train: TrainConfig = field(default_factory=TrainConfig)  # optimisation, data order and checkpoints
    seed: int = 0  # seed of weights, order, crops and augmentation
    output: str = runtime_only("runs/supervise")  # folder of the run

    def __post_init__(self) -> None:
        check_names(self, {})
