"""The parts that the configs of several pipelines share: views, encoders, teachers, training. No torch here."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from pipelines._config import choice, free, options_of


@dataclass(frozen=True)
class ViewConfig:
    """A named use of a modality; further keys are the modality's options."""

    modality: str = choice("modalities")  # which sensor: see crossmodal list modalities
    aligned: bool = True  # true: shares the sample's random window; false: draws its own
    options: dict[str, Any] = options_of("modality")


@dataclass(frozen=True)
class EncoderConfig:
    """A network; further keys are its options."""

    name: str = choice("encoders")  # see crossmodal list encoders
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class TeacherConfig:
    """A frozen network that teaches."""

    view: str  # which view it sees
    weights: str  # folder of a finished run, or a file of published weights, or package:NAME
    encoder: EncoderConfig | None = None  # the network the file's weights are made for; a run's folder knows its own
    classes: int = 0  # of the published file's classifier; 0: leave it out. A run's folder knows its own
    sha256: str | None = None  # of the file of weights; another file is refused
    first_layer: Literal["sum", "mean", "repeat", "random"] = "sum"  # how RGB weights meet other channel counts
    weight: float = 1.0  # share of this teacher in every objective


@dataclass(frozen=True)
class StudentConfig:
    """The network that learns."""

    view: str  # which view it sees
    encoder: EncoderConfig  # a name, or a mapping with name and options
    weights: str | None = None  # to begin from: a file of published weights, or package:NAME; null: new weights
    sha256: str | None = None  # of the file of weights; another file is refused
    first_layer: Literal["sum", "mean", "repeat", "random"] = "sum"  # how RGB weights meet other channel counts


@dataclass(frozen=True)
class ObjectiveConfig:
    """Something to minimise; further keys are its options."""

    name: str = choice("objectives", from_key=True)  # see crossmodal list objectives; by default the entry's own key
    weight: float = 1.0  # factor in the sum that is minimised
    teachers: list[str] | None = None  # which teachers it compares with; null: all, sharing the weight
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class LookConfig:
    """The random window of a training sample, shared by its aligned views."""

    scale: tuple[float, float] = (0.6, 1.0)  # least and greatest share of the area that is kept
    ratio: tuple[float, float] = (0.8, 1.25)  # least and greatest width over height, relative to the picture's
    flip: float = 0.5  # probability of mirroring left to right


@dataclass(frozen=True)
class TrainConfig:
    """How anything is trained."""

    epochs: int = 30  # passes over the data
    batch_size: int = 128  # pairs an optimiser step, over all processes and accumulated parts
    accumulate: int = 1  # parts a batch is worked through in; contrastive losses then see only a part at a time
    optimiser: Literal["adamw", "sgd"] = "adamw"  # sgd uses Nesterov-free momentum
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.05  # of weights with two or more dimensions; biases and norms are left alone
    momentum: float = 0.9  # of sgd
    schedule: Literal["cosine", "step", "constant"] = "cosine"  # after the warm-up
    milestones: list[float] = field(default_factory=lambda: [0.6, 0.75, 0.9])  # of step, as shares of the run
    gamma: float = 0.1  # of step: factor at every milestone
    warmup: float = 0.05  # share of the run in which the rate rises linearly from 0
    clip_norm: float | None = None  # greatest gradient norm; null: not clipped
    ema: float | None = None  # decay a step of averaged weights, which are then exported; null: none
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"  # of the forward pass; losses stay in float32
    look: LookConfig = field(default_factory=LookConfig)  # the random window of training samples
    lanes: int = 16  # at most so many places in the data a batch is taken from; processes share them
    shuffle_block: int = 8192  # neighbouring pairs of a lane that are shuffled among one another
    on_error: Literal["stop", "skip"] = "stop"  # an unreadable pair; skip: its neighbour stands in, and it is counted
    workers: int = free(2)  # processes a rank that read and decode
    log_every: int = free(20)  # steps between lines of metrics.jsonl
    save_every: int = free(500)  # steps between checkpoints
    save_minutes: float = free(10.0)  # minutes between checkpoints
    trackers: list[str] = free(factory=list)  # accelerate's log_with names, such as tensorboard


@runtime_checkable
class Trained(Protocol):
    """What the configs of all pipelines that train an encoder have."""

    @property
    def views(self) -> dict[str, ViewConfig]: ...

    @property
    def student(self) -> StudentConfig: ...

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]: ...
