"""Config sections that several pipelines share: views, encoders, teachers, training. This module imports no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from crossmodal import ENCODERS
from crossmodal.published import WeightsError, check_name, is_name
from crossmodal.stores.paths import why_not_url
from modalities.common.catalogue import suggest
from pipelines.config import FieldError, choice, number, options_of, runtime_only

NAME = re.compile(r"[A-Za-z0-9_-]+")  # of objectives and teachers; no dot, which separates them in logs and heads
COLUMNS = ("loss", "step", "epoch", "lr", "pairs_per_second", "phase")  # in metrics.jsonl


@dataclass(frozen=True)
class ViewConfig:
    """A modality with its options, as an encoder receives it."""

    modality: str = choice("modalities")  # the sensor; crossmodal list modalities shows its options, such as size
    aligned: bool = True  # share one random crop with the other aligned views (same aspect ratio); false: own crop
    options: dict[str, Any] = options_of("modality")


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder with its options."""

    name: str = choice("encoders")  # architecture; see crossmodal list encoders
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class CacheConfig:
    """Copies of whole shards on a local disk, of shards that are in a store."""

    dir: str  # folder on a local disk; all processes of the machine share it
    gb: float = number(above=0)  # most space that all copies take together, in 10^9 bytes


def check_places(**places: str | None) -> None:
    """Checks that folders of shards are paths, or URLs without credentials.

    Args:
        places: by config key, with `__` for the dot.

    Raises:
        FieldError: the first problem.
    """
    for key, place in places.items():
        if place is not None and (problem := why_not_url(place)):
            raise FieldError(key.replace("__", "."), problem)


@dataclass(frozen=True)
class TeacherConfig:
    """A frozen encoder whose outputs are the targets of the objectives."""

    view: str  # its input: the name of a view
    # a published network by name (timm/MODEL.TAG, hf-hub:, open_clip:, transformers:, torchvision:, package:), the
    # folder of a finished run, or a file of published weights; docs/teachers.md
    weights: str
    encoder: EncoderConfig | None = None  # architecture of a file of weights; a name or a run's folder implies it
    classes: int = number(0, least=0)  # classes of the published classifier; 0: none. Leave it out for a run's folder
    sha256: str | None = None  # expected SHA-256 of the weights file; any other file is an error
    first_layer: Literal["sum", "mean", "repeat", "random"] = "sum"  # how RGB weights adapt to other channel counts
    normalisation: Literal["own", "view"] = "own"  # input normalisation of published weights: theirs or the view's
    weight: float = number(1.0, least=0)  # factor of this teacher's loss in every objective
    features: str | None = None  # folder or URL of cached outputs (crossmodal features) to read; null: run the teacher
    download: bool = runtime_only(False)  # fetch what a name stands for, if it is not on this machine

    def __post_init__(self) -> None:
        check_places(features=self.features)
        named = _check_weights(self)
        for name, given in (("classes", self.classes), ("first_layer", self.first_layer != "sum")):
            if given and self.encoder is None and not named:
                raise FieldError(name, "needs published weights by name, or a file with encoder; leave it out for a "
                                 "run's folder")  # fmt: skip


@dataclass(frozen=True)
class StudentConfig:
    """The encoder that is trained."""

    view: str  # its input: the name of a view
    # a name, or a mapping with name and options; weights by name imply it
    encoder: EncoderConfig | None = None
    weights: str | None = None  # initial weights, as of a teacher: a name, a finished run, or a file; null: random
    sha256: str | None = None  # expected SHA-256 of the weights file; any other file is an error
    first_layer: Literal["sum", "mean", "repeat", "random"] = "sum"  # how RGB weights adapt to other channel counts
    download: bool = runtime_only(False)  # fetch what a name stands for, if it is not on this machine

    def __post_init__(self) -> None:
        named = _check_weights(self)
        if self.encoder is None and not named:
            raise FieldError("encoder", f"must be given (one of {', '.join(ENCODERS.names())}), unless weights is the "
                             "name of a published network")  # fmt: skip
        if self.sha256 is not None and self.weights is None:
            raise FieldError("sha256", "applies to a weights file, but weights is not given")

    @property
    def network(self) -> EncoderConfig:
        """The encoder, once `pipelines.building.published.settle` has found what weights by name imply."""
        assert self.encoder is not None
        return self.encoder


Network = TeacherConfig | StudentConfig


def _check_weights(network: Network) -> bool:
    """True if the weights are those of a published network by its name; a name that cannot be is refused."""
    if network.weights is not None:
        try:
            check_name(network.weights)
        except WeightsError as error:
            raise FieldError("weights", f"cannot be found: {error}") from error
    named = network.weights is not None and is_name(network.weights)
    if network.download and not named:
        raise FieldError("download", "needs weights that are the name of a published network (docs/teachers.md)")
    return named


@dataclass(frozen=True)
class ObjectiveConfig:
    """A loss with its weight and options."""

    name: str = choice("objectives", from_key=True)  # see crossmodal list objectives; default: the entry's key
    weight: float = number(1.0, least=0)  # factor in the total loss
    teachers: list[str] | None = None  # teachers it uses; null: all. The losses are summed
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class HeldOutConfig:
    """Pairs of every class that are not trained on, to tune settings with. Groups of pairs are never split."""

    share: float = number(0.2, above=0, below=1)  # fraction of the pairs
    seed: int = 0  # seed of the random choice


@dataclass(frozen=True)
class CropConfig:
    """Random crops of training samples. The aligned views of a sample share one."""

    scale: tuple[float, float] = number((0.6, 1.0), above=0, most=1)  # crop area / image area, min and max
    ratio: tuple[float, float] = number((0.8, 1.25), above=0)  # width / height relative to the view's, min and max
    flip: float = number(0.5, least=0, most=1)  # probability of a horizontal flip
    windows: int | None = number(None, least=1)  # fixed crops per pair, used in turn; null: a new one every epoch
    # how far a crop may overhang the image (zero-padded), as a fraction of its sides
    shift: float = number(0.0, least=0, below=1)

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise FieldError(name, f"must be in ascending order, got [{low:g}, {high:g}]")


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation, data order and checkpoints."""

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    # passes over the data; null: 30, and in a transfer from 8 to 60, by the number of pairs
    epochs: int | None = number(None, least=1)
    batch_size: int = number(128, least=1)  # pairs per optimiser step, over all processes and accumulated parts
    accumulate: int = number(1, least=1)  # gradient accumulation: parts per batch, each with its own contrastive loss
    # gradient caching: encoder micro-batch; the loss still sees the whole batch, so the gradient is the same
    chunk: int | None = number(None, least=1)
    optimiser: Literal["adamw", "sgd"] = "adamw"  # sgd has classical momentum, not Nesterov's
    # peak learning rate; null: 1e-3, and for a student with new weights 3e-3, or the recipe's (sgd: 0.05)
    lr: float | None = number(None, above=0)
    weight_decay: float = number(0.05, least=0)  # for weights with two or more dimensions, so not for biases and norms
    decay_all: bool = False  # apply weight decay to biases and norms too, as older recipes do
    momentum: float = number(0.9, least=0, below=1)  # SGD momentum
    schedule: Literal["cosine", "step", "constant"] = "cosine"  # learning rate after the warm-up
    # step schedule: points in the run at which the rate drops, as fractions
    milestones: list[float] = number([0.6, 0.75, 0.9], least=0, most=1)
    gamma: float = number(0.1, above=0, most=1)  # step schedule: factor at every drop
    warmup: float = number(0.05, least=0, most=1)  # fraction of the run in which the rate rises linearly from 0
    clip_norm: float | None = number(None, above=0)  # maximum gradient norm; null: no clipping
    # export an exponential moving average of the weights, with decay min(ema, (1 + t) / (10 + t)) at step t; null: off
    ema: float | None = number(None, least=0, below=1)
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"  # precision of the forward pass; losses are float32
    crop: CropConfig = field(default_factory=CropConfig)  # random crops of training samples
    # maximum number of positions in the data that each batch interleaves, over all processes
    lanes: int = number(16, least=1)
    shuffle_block: int = number(8192, least=1)  # neighbouring pairs of a lane that are shuffled together
    on_error: Literal["stop", "skip"] = "stop"  # unreadable pairs; skip: replace each by another pair, and report it
    # compute the activations of the trained encoder's blocks again in the backward pass: the same gradients with less
    # memory, in about a third more time
    checkpoint_activations: bool = runtime_only(False)
    # torch.compile of the trained encoders (student), of the frozen ones (teacher), or of both (true): fewer and fused
    # kernels after a minute or more of compiling; it needs a C++ compiler, and changes results by rounding
    compile: bool | Literal["student", "teacher"] = runtime_only(False)
    workers: int = number(2, least=0, runtime_only=True)  # data-loading processes per rank
    log_every: int = number(20, least=1, runtime_only=True)  # steps between lines of metrics.jsonl
    save_every: int = number(500, least=1, runtime_only=True)  # steps between checkpoints
    save_minutes: float = number(10.0, above=0, runtime_only=True)  # minutes between checkpoints
    trackers: list[str] = runtime_only(factory=list)  # Accelerate trackers (log_with), such as tensorboard

    def __post_init__(self) -> None:
        if self.chunk is not None and self.mixed_precision == "fp16":
            raise FieldError("mixed_precision", "must be no or bf16 with chunk: fp16 needs loss scaling")
        if self.checkpoint_activations and self.compile in (True, "student"):
            raise FieldError("compile", "must be false or teacher with checkpoint_activations")

    @property
    def passes(self) -> int:
        """Passes over the data."""
        return 30 if self.epochs is None else self.epochs

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return 1e-3 if self.lr is None else self.lr


Trial = Literal["dry_run", "overfit", "replay"]  # see `pipelines.training.trials`


@dataclass(frozen=True)
class PrepareConfig:
    """The phase before the main one, for objectives that have one; other settings are those of `train`."""

    epochs: int = number(30, least=1)  # passes over the data
    lr: float | None = number(None, above=0)  # peak learning rate; null: train.lr
    schedule: Literal["cosine", "step", "constant"] = "constant"  # learning rate after the warm-up
    warmup: float = number(0.0, least=0, most=1)  # fraction of the phase in which the rate rises linearly from 0

    def over(self, train: TrainConfig) -> TrainConfig:
        """The settings of this phase: `train` with epochs, learning rate, schedule and warm-up from here."""
        lr = train.lr if self.lr is None else self.lr
        return replace(train, epochs=self.epochs, lr=lr, schedule=self.schedule, warmup=self.warmup)


def check_views(views: Mapping[str, ViewConfig], named: Mapping[str, str]) -> None:
    """Checks that every view named under a config key exists, and that no view has a reserved name.

    Raises:
        FieldError: the first problem.
    """
    if "window" in views:
        raise FieldError("views.window", "needs another name: window is reserved for the shared crop")
    for key, view in named.items():
        if view not in views:
            raise FieldError(key, f"must be one of the views, got {view!r}{suggest(view, list(views))}")


def check_names(config: "Trained", teachers: Mapping[str, TeacherConfig]) -> None:
    """Checks the names of objectives and teachers, and that every view and teacher that a config refers to exists.

    Raises:
        FieldError: the first problem.
    """
    check_views(config.views, {"student.view": config.student.view} | {
        f"teachers.{name}.view": teacher.view for name, teacher in teachers.items()
    })  # fmt: skip
    for name in teachers:
        if not NAME.fullmatch(name):
            raise FieldError(f"teachers.{name}", "needs another name: use letters, digits, _ and -")
    for name, objective in config.objectives.items():
        if not NAME.fullmatch(name) or name in COLUMNS:
            raise FieldError(
                f"objectives.{name}", f"needs another name: use letters, digits, _ and -, not {', '.join(COLUMNS)}"
            )
        chosen = objective.teachers or []
        if len({*chosen}) < len(chosen):
            raise FieldError(f"objectives.{name}.teachers", f"must name each teacher once, got {', '.join(chosen)}")
        for teacher in chosen:
            if teacher not in teachers:
                raise FieldError(
                    f"objectives.{name}.teachers", f"must be one of the teachers, got {teacher!r}"
                    f"{suggest(teacher, list(teachers))}"
                )  # fmt: skip


@runtime_checkable
class Trained(Protocol):
    """Fields that the configs of `supervise` and `transfer` share."""

    @property
    def views(self) -> dict[str, ViewConfig]:
        """Inputs by name."""

    @property
    def student(self) -> StudentConfig:
        """The encoder that is trained."""

    @property
    def objectives(self) -> dict[str, ObjectiveConfig]:
        """Losses by name."""
