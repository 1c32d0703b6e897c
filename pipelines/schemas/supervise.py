"""The config of `crossmodal supervise`."""

from dataclasses import dataclass, field
from typing import Literal

from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas.common import (
    CacheConfig,
    HeldOutConfig,
    ObjectiveConfig,
    StudentConfig,
    TrainConfig,
    Trial,
    ViewConfig,
    check_names,
    check_places,
)


@dataclass(frozen=True)
class SuperviseTrainConfig(TrainConfig):
    """Optimisation, data order and checkpoints."""

    # trunk: train the classifier on student.weights, whose other weights and statistics do not change; null: train all
    freeze: Literal["trunk"] | None = None


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal supervise`."""

    data: str  # folder of labelled shards, or its URL in a store, such as s3://bucket/pairs/train
    views: dict[str, ViewConfig]  # inputs by name
    student: StudentConfig  # the encoder that is trained; with weights of a finished run it starts from these
    objectives: dict[str, ObjectiveConfig] = field(  # losses that need no teacher
        default_factory=lambda: {"cross_entropy": ObjectiveConfig("cross_entropy")}
    )
    pairs: Literal["labelled", "all"] = "labelled"  # pairs to train on; all: also those without a label
    labels: int | None = number(
        None, least=1
    )  # labelled pairs of each class, with validation; drawn by seed; null: all
    # labelled pairs that are not trained on; they judge the classifier and calibrate its probabilities. null: none
    validation: HeldOutConfig | None = None
    train: SuperviseTrainConfig = field(default_factory=SuperviseTrainConfig)  # optimisation, data order, checkpoints
    seed: int = 0  # seed of weights, order, crops and augmentation
    cache: CacheConfig | None = runtime_only(None)  # local copies of shards in a store; null: none; see docs/scale.md
    output: str = runtime_only("runs/supervise")  # folder of the run
    # dry_run: take some steps and tell the costs; overfit: learn one batch; replay: find a loss that is not finite
    trial: Trial | None = runtime_only(None)

    def __post_init__(self) -> None:
        check_places(data=self.data)
        check_names(self, {})
        if self.train.freeze and self.student.weights is None:
            raise FieldError("train.freeze", "needs student.weights: a frozen trunk with random weights learns nothing")
        if self.labels is not None and self.pairs == "all":
            raise FieldError("pairs", "must be labelled with labels, which uses no other pairs, got all")
