"""The config of `crossmodal supervise`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.config import runtime_only
from pipelines.schemas.common import ObjectiveConfig, StudentConfig, TrainConfig, ViewConfig, check_names

if TYPE_CHECKING:
    pass


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
    output: str = runtime_only("runs/supervise")  # the run's folder

    def __post_init__(self) -> None:
        check_names(self, {})
