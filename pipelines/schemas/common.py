"""The parts that the configs of several pipelines share: views, encoders, teachers, training. No torch here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from modalities.common.catalogue import suggest
from pipelines.config import FieldError, choice, number, options_of, runtime_only

NAME = re.compile(r"[A-Za-z0-9_-]+")  # of objectives and teachers: a dot parts them, in logs and exported heads
COLUMNS = ("loss", "step", "epoch", "lr", "pairs_per_second", "phase")  # of the log


@dataclass(frozen=True)
class ViewConfig:
    """A named use of a modality; further keys are the modality's options."""

    modality: str = choice("modalities")  # which sensor: see crossmodal list modalities
    aligned: bool = True  # true: shares the sample's random window, of equal width : height; false: draws its own
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
    classes: int = number(0, least=0)  # of the published file's classifier; 0: none. A run's folder knows its own
    sha256: str | None = None  # of the file of weights; another file is refused
    first_layer: Literal["sum", "mean", "repeat", "random"] = "sum"  # how RGB weights meet other channel counts
    normalisation: Literal["own", "view"] = "own"  # of published weights: their own, or the view's
    weight: float = number(1.0, least=0)  # factor of this teacher in every objective; teachers add up
    features: str | None = None  # folder of what it says (crossmodal features), read in its stead; null: it runs

    def __post_init__(self) -> None:
        for name, given in (("classes", self.classes), ("first_layer", self.first_layer != "sum")):
            if given and self.encoder is None:
                raise FieldError(
                    name, "is of a published file and its encoder; a run's folder knows its own, leave it out"
                )


@dataclass(frozen=True)
class StudentConfig:
    """The network that learns."""

    view: str  # which view it sees
    encoder: EncoderConfig  # a name, or a mapping with name and options
    weights: str | None = None  # to begin from: a finished run, a file of weights, or package:NAME; null: new ones
    sha256: str | None = None  # of the file of weights; another file is refused
    first_layer: Literal["sum", "mean", "repeat", "random"] = "sum"  # how RGB weights meet other channel counts

    def __post_init__(self) -> None:
        if self.sha256 is not None and self.weights is None:
            raise FieldError("sha256", "is of a file of weights, and weights names none")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Something to minimise; further keys are its options."""

    name: str = choice("objectives", from_key=True)  # see crossmodal list objectives; by default the entry's own key
    weight: float = number(1.0, least=0)  # factor in the sum that is minimised
    teachers: list[str] | None = None  # which teachers it compares with; null: all, added up
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class HeldOutConfig:
    """Pairs kept out of training, to choose settings by: whole groups where there are groups, and of every class."""

    share: float = number(0.2, above=0, below=1)  # of the pairs
    seed: int = 0  # of the draw


@dataclass(frozen=True)
class CropConfig:
    """The random window of a training sample, shared by its aligned views."""

    scale: tuple[float, float] = number((0.6, 1.0), above=0, most=1)  # share of the area that is kept, from and to
    ratio: tuple[float, float] = number((0.8, 1.25), above=0)  # width over height, relative to the picture's
    flip: float = number(0.5, least=0, most=1)  # probability of mirroring left to right
    windows: int | None = number(None, least=1)  # different ones a pair has, in turn; null: a new one every epoch
    shift: float = number(
        0.0, least=0, below=1
    )  # share of the sides by which it may leave the sample; there it shows 0

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise FieldError(name, f"must rise, got [{low:g}, {high:g}]")


@dataclass(frozen=True)
class TrainConfig:
    """How anything is trained."""

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    epochs: int = number(30, least=1)  # passes over the data
    batch_size: int = number(128, least=1)  # pairs an optimiser step, over all processes and accumulated parts
    accumulate: int = number(1, least=1)  # parts a batch is worked through in; contrastive losses see one at a time
    chunk: int | None = number(
        None, least=1
    )  # pairs an encoder sees at a time; losses see all. Same gradient, less memory
    optimiser: Literal["adamw", "sgd"] = "adamw"  # sgd uses Nesterov-free momentum
    lr: float = number(1e-3, above=0)  # peak learning rate
    weight_decay: float = number(0.05, least=0)  # of weights with two or more dimensions, so not of biases and norms
    decay_all: bool = False  # weight decay of biases and norms too, as older recipes have it
    momentum: float = number(0.9, least=0, below=1)  # of sgd
    schedule: Literal["cosine", "step", "constant"] = "cosine"  # after the warm-up
    milestones: list[float] = number([0.6, 0.75, 0.9], least=0, most=1)  # of step, as shares of the run
    gamma: float = number(0.1, above=0, most=1)  # of step: factor at every milestone
    warmup: float = number(0.05, least=0, most=1)  # share of the run in which the rate rises linearly from 0
    clip_norm: float | None = number(None, above=0)  # greatest gradient norm; null: not clipped
    ema: float | None = number(None, least=0, below=1)  # export averaged weights; decay min(ema, (1 + t) / (10 + t))
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"  # of the forward pass; losses stay in float32
    crop: CropConfig = field(default_factory=CropConfig)  # the random window of training samples
    lanes: int = number(16, least=1)  # at most so many places in the data a batch is taken from; processes share them
    shuffle_block: int = number(8192, least=1)  # neighbouring pairs of a lane that are shuffled among one another
    on_error: Literal["stop", "skip"] = "stop"  # an unreadable pair; skip: another stands in, named and counted
    workers: int = number(2, least=0, runtime_only=True)  # processes a rank that read and decode
    log_every: int = number(20, least=1, runtime_only=True)  # steps between lines of metrics.jsonl
    save_every: int = number(500, least=1, runtime_only=True)  # steps between checkpoints
    save_minutes: float = number(10.0, above=0, runtime_only=True)  # minutes between checkpoints
    trackers: list[str] = runtime_only(factory=list)  # accelerate's log_with names, such as tensorboard

    def __post_init__(self) -> None:
        if self.chunk is not None and self.mixed_precision == "fp16":
            raise FieldError("mixed_precision", "must be no or bf16 with a chunk, for no loss scale protects it")


@dataclass(frozen=True)
class PrepareConfig:
    """How objectives that want it are prepared before the training proper; all else is as there."""

    epochs: int = number(30, least=1)  # passes over the data
    lr: float | None = number(None, above=0)  # peak learning rate; null: train.lr
    schedule: Literal["cosine", "step", "constant"] = "constant"  # after the warm-up
    warmup: float = number(0.0, least=0, most=1)  # share of the preparation in which the rate rises linearly from 0

    def over(self, train: TrainConfig) -> TrainConfig:
        """The training's own settings under these."""
        lr = train.lr if self.lr is None else self.lr
        return replace(train, epochs=self.epochs, lr=lr, schedule=self.schedule, warmup=self.warmup)


def check_views(views: Mapping[str, ViewConfig], named: Mapping[str, str]) -> None:
    """Refuses a view that is named under a key and does not exist, and one with a name that is taken.

    Raises:
        FieldError: the first of them.
    """
    if "window" in views:
        raise FieldError("views.window", "needs another name: the window that views share is drawn by this one")
    for key, view in named.items():
        if view not in views:
            raise FieldError(key, f"must be one of the views, got {view!r}{suggest(view, list(views))}")


def check_names(config: "Trained", teachers: Mapping[str, TeacherConfig]) -> None:
    """Refuses a view or teacher that a config refers to and does not have or names twice, and a name that is not one.

    Raises:
        FieldError: the first of them.
    """
    check_views(config.views, {"student.view": config.student.view} | {
        f"teachers.{name}.view": teacher.view for name, teacher in teachers.items()
    })  # fmt: skip
    for name in teachers:
        if not NAME.fullmatch(name):
            raise FieldError(f"teachers.{name}", "needs another name: of letters, digits, _ and -")
    for name, objective in config.objectives.items():
        if not NAME.fullmatch(name) or name in COLUMNS:
            raise FieldError(
                f"objectives.{name}", f"needs another name: of letters, digits, _ and -, not {', '.join(COLUMNS)}"
            )
        chosen = objective.teachers or []
        if len({*chosen}) < len(chosen):
            raise FieldError(f"objectives.{name}.teachers", f"must name each teacher once, got {', '.join(chosen)}")
        for teacher in chosen:
            if teacher not in teachers:
                raise FieldError(
                    f"objectives.{name}.teachers", f"must be of the teachers, got {teacher!r}"
                    f"{suggest(teacher, list(teachers))}"
                )  # fmt: skip


@runtime_checkable
class Trained(Protocol):
    """What the configs of all pipelines that train an encoder have."""

    @property
    def views(self) -> dict[str, ViewConfig]:
        """Named uses of modalities."""

    @property
    def student(self) -> StudentConfig:
        """The network that is trained."""

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """The losses by name."""
