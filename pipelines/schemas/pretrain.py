"""The config of `crossmodal pretrain`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipelines.config import FieldError, choice, number, options_of, runtime_only
from pipelines.schemas.common import (
    COLUMNS,
    NAME,
    CacheConfig,
    HeldOutConfig,
    StudentConfig,
    TrainConfig,
    Trial,
    ViewConfig,
    check_places,
    check_views,
)

SIGNS = ("rank", "spread", "positive", "negative", "found", "chance", "knn",
         "alignment", "uniformity", "instance", "intra_class")  # further columns of metrics.jsonl  # fmt: skip


@dataclass(frozen=True)
class HeadConfig:
    """The projection head between the embedding and the loss. It is not exported."""

    layers: int = number(2, least=1)  # linear layers, with ReLU between them
    width: float = number(1.0, above=0)  # width of hidden layers / embedding dimension; 2: wide, for small models
    dim: int = number(128, least=1)  # dimension of the output
    norm: bool = False  # batch norm after every linear layer, as in MoCo v3


@dataclass(frozen=True)
class MomentumConfig:
    """Keys from momentum encoders (MoCo)."""

    decay: float = number(0.99, least=0, below=1)  # decay per step of the moving average of the weights
    predictor: bool = False  # add a two-layer head to the queries only, as in MoCo v3


@dataclass(frozen=True)
class GradientsConfig:
    """End-to-end or local training."""

    unit: int | None = number(None, least=1)  # stages per local loss: 2 LoCo, 1 greedy; null: end to end
    block: bool = True  # with unit: a residual block before the head of each stage


@dataclass(frozen=True)
class MonitorConfig:
    """Warnings and kNN accuracy during training. They change no weight."""

    after: int = number(200, least=1)  # steps before the first warning
    pairs: int = number(1000, least=0)  # labelled pairs for online kNN (half index, half queries); 0: no kNN
    every: int = number(1, least=1)  # epochs between kNN measurements; the last epoch is always measured
    neighbours: int = number(20, least=1)  # k of kNN
    diagnostics: bool = False  # with kNN: alignment (also within classes), uniformity, instance discrimination


@dataclass(frozen=True)
class MultiviewConfig:
    """A loss with its weight and options."""

    name: str = choice("multiview", from_key=True)  # see crossmodal list multiview; default: the entry's key
    weight: float = number(1.0, least=0)  # factor in the total loss
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal pretrain`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"looks": "crops", "watch": "monitor"}
    data: str  # folder of shards, or its URL in a store; paired if there are several modalities
    views: dict[str, ViewConfig]  # inputs by name, with their augmentation
    encoders: dict[str, StudentConfig]  # encoders to train, by name, each with its view
    objectives: dict[str, MultiviewConfig]  # losses by name; the total is their weighted sum
    crops: int = number(2, least=1)  # augmented crops per sample and encoder
    graph: Literal["full", "across", "core"] = "full"  # which crops are contrasted: all, across encoders, or with core
    core: str | None = None  # the encoder that graph: core contrasts with the others
    symmetric: bool = True  # both crops of a pair are anchors; false: only the first, as in MoCo v2
    head: HeadConfig = field(default_factory=HeadConfig)  # projection head of every encoder
    momentum: MomentumConfig | None = None  # momentum encoders for the keys (MoCo); null: none
    gradients: GradientsConfig = field(default_factory=GradientsConfig)  # end-to-end or local training
    monitor: MonitorConfig = field(default_factory=MonitorConfig)  # warnings and online kNN
    train: TrainConfig = field(default_factory=TrainConfig)  # optimisation, data order and checkpoints
    held_out: HeldOutConfig | None = None  # keep part of the data for tuning; null: train on all
    keep: Literal["all", "linear", "exponential"] = "all"  # share kept of class i of C: 1, (i + 1) / C, exp(i + 1 - C)
    seed: int = 0  # seed of weights, order, crops, augmentation and negatives
    cache: CacheConfig | None = runtime_only(None)  # local copies of shards in a store; null: none; see docs/scale.md
    output: str = runtime_only("runs/pretrain")  # folder of the run
    # dry_run: take some steps and tell the costs; overfit: learn one batch; replay: find a loss that is not finite
    trial: Trial | None = runtime_only(None)

    def __post_init__(self) -> None:
        check_places(data=self.data)
        if not self.encoders:
            raise FieldError("encoders", "must name at least one encoder")
        check_views(self.views, {f"encoders.{name}.view": encoder.view for name, encoder in self.encoders.items()})
        taken = (*COLUMNS, *SIGNS)
        for kind, names in (("encoders", self.encoders), ("objectives", self.objectives)):
            for name in names:
                if not NAME.fullmatch(name) or name in taken:
                    raise FieldError(
                        f"{kind}.{name}",
                        f"needs another name: use letters, digits, _ and -, not {', '.join(taken)}",
                    )
        self._check_gradients()
        if self.train.compile and self.gradients.unit is not None:
            raise FieldError("train.compile", "must be false with gradients.unit, which cuts networks into parts")

    def _check_gradients(self) -> None:
        if self.gradients.unit is None:
            return
        if len(self.encoders) > 1 or self.momentum is not None or self.train.chunk is not None:
            raise FieldError("gradients.unit", "needs a single encoder, no momentum and no train.chunk")
        if self.train.mixed_precision == "fp16":
            raise FieldError("train.mixed_precision", "must be no or bf16 with gradients.unit: fp16 needs loss scaling")
