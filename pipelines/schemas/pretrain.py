"""The config of `crossmodal pretrain`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipelines.config import FieldError, choice, number, options_of, runtime_only
from pipelines.schemas.common import COLUMNS, NAME, HeldOutConfig, StudentConfig, TrainConfig, ViewConfig, check_views

if TYPE_CHECKING:
    pass


SIGNS = ("rank", "spread", "positive", "negative", "found", "chance", "knn",
         "alignment", "uniformity", "instance", "intra_class")  # in the log beside COLUMNS  # fmt: skip


@dataclass(frozen=True)
class HeadConfig:
    """What stands between an embedding and the vectors that are compared; it is not exported."""

    layers: int = number(2, least=1)  # linear ones, with ReLU between them
    width: float = number(1.0, above=0)  # of hidden layers, times the embedding's; 2: the wide head of small models
    dim: int = number(128, least=1)  # of the vectors that are compared
    norm: bool = False  # batch norm after every linear layer, as in MoCo v3


@dataclass(frozen=True)
class MomentumConfig:
    """Keys from encoders that follow slowly (MoCo)."""

    decay: float = number(0.99, least=0, below=1)  # share of the slow weights that stays at a step
    predictor: bool = False  # a further head on queries only, of two layers, as in MoCo v3


@dataclass(frozen=True)
class GradientsConfig:
    """How gradients reach the encoders."""

    unit: int | None = number(None, least=1)  # stages that a loss trains: 2 LoCo, 1 greedy; null: all, end to end
    block: bool = True  # a residual block before the head of a stage, where there is a unit


@dataclass(frozen=True)
class MonitorConfig:
    """What is looked at on the way, to warn early; it changes no weight."""

    after: int = number(200, least=1)  # steps until a warning may come
    pairs: int = number(1000, least=0)  # labelled pairs that kNN is measured with: a half among the other; 0: it is not
    every: int = number(1, least=1)  # epochs between measurements of kNN, which the last epoch ends with too
    neighbours: int = number(20, least=1)  # of kNN
    diagnostics: bool = False  # with kNN also alignment, uniformity, instance discrimination, and within classes


@dataclass(frozen=True)
class MultiviewConfig:
    """Something to minimise; further keys are its options."""

    name: str = choice("multiview", from_key=True)  # see crossmodal list multiview; by default the entry's own key
    weight: float = number(1.0, least=0)  # factor in the sum that is minimised
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class Config:
    """What `crossmodal pretrain` reads."""

    RENAMED: ClassVar[Mapping[str, str]] = {"looks": "crops", "watch": "monitor"}
    data: str  # folder of shards, paired where there are several modalities
    views: dict[str, ViewConfig]  # named uses of modalities, with their augmentation
    encoders: dict[str, StudentConfig]  # the networks that are trained, by name, each on a view
    objectives: dict[str, MultiviewConfig]  # what is minimised, by name, each with a weight
    crops: int = number(2, least=1)  # at a sample, of every encoder: windows and augmentations
    graph: Literal["full", "across", "core"] = "full"  # which looks meet: all, of different encoders, or with core
    core: str | None = None  # the encoder in the middle of graph: core
    symmetric: bool = True  # of two looks that meet both are anchors; false: the first, as in MoCo v2
    head: HeadConfig = field(default_factory=HeadConfig)  # of every encoder
    momentum: MomentumConfig | None = None  # null: looks meet one another as they are
    gradients: GradientsConfig = field(default_factory=GradientsConfig)  # how they reach the encoders
    monitor: MonitorConfig = field(default_factory=MonitorConfig)  # what is looked at on the way
    train: TrainConfig = field(default_factory=TrainConfig)  # how they are trained
    held_out: HeldOutConfig | None = None  # pairs of the data that are not trained on; null: none
    keep: Literal["all", "linear", "exponential"] = "all"  # of class i of C: all, (i + 1) / C, exp(i + 1 - C)
    seed: int = 0  # of weights, order, windows, augmentation and negatives
    output: str = runtime_only("runs/pretrain")  # the run's folder

    def __post_init__(self) -> None:
        if not self.encoders:
            raise FieldError("encoders", "must name at least one encoder")
        check_views(self.views, {f"encoders.{name}.view": encoder.view for name, encoder in self.encoders.items()})
        taken = (*COLUMNS, *SIGNS)
        for kind, names in (("encoders", self.encoders), ("objectives", self.objectives)):
            for name in names:
                if not NAME.fullmatch(name) or name in taken:
                    raise FieldError(
                        f"{kind}.{name}", f"needs another name: of letters, digits, _ and -, not {', '.join(taken)}"
                    )
        self._check_gradients()

    def _check_gradients(self) -> None:
        if self.gradients.unit is None:
            return
        if len(self.encoders) > 1 or self.momentum is not None or self.train.chunk is not None:
            raise FieldError("gradients.unit", "takes one encoder, without momentum and without train.chunk")
        if self.train.mixed_precision == "fp16":
            raise FieldError("train.mixed_precision", "must be no or bf16 with gradients.unit, for no loss scale "
                             "protects it")  # fmt: skip
