"""The config of `crossmodal evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from crossmodal import EVALUATIONS
from pipelines.config import FieldError, choice, number, options_of, runtime_only
from pipelines.schemas.common import CacheConfig, CropConfig, HeldOutConfig, check_places

if TYPE_CHECKING:
    from crossmodal.evaluation import Evaluation, Metric
    from pipelines.schemas import certify, pretrain, supervise, transfer

    Trained = transfer.Config | supervise.Config | pretrain.Config | certify.Config


@dataclass(frozen=True)
class DataConfig:
    """The training pairs and the test pairs."""

    train: str  # folder of shards for kNN, probes and labels, or its URL in a store
    test: str | None = None  # folder of shards that no network has seen; null: use held_out
    held_out: HeldOutConfig | None = None  # evaluate on these pairs of train; the students must have held out the same

    def __post_init__(self) -> None:
        check_places(train=self.train, test=self.test)
        if (self.test is None) == (self.held_out is None):
            raise FieldError("test", "must be given, or held_out in its place, but not both")


@dataclass(frozen=True)
class FewLabelsConfig:
    """Learning from few labels: probes of frozen embeddings, and whole encoders from the students and from scratch."""

    RENAMED: ClassVar[Mapping[str, str]] = {"look": "crop"}
    labels: list[int | None] = number(
        [1, 5, 10, 50, None], least=1
    )  # labels per class; skipped if a class has fewer; null: all labels
    draws: int = number(5, least=1)  # choices of labels a seed for frozen embeddings; whole encoders use the first
    whole: Literal["all", "scratch", "none"] = "all"  # which encoders to train: students and scratch, scratch, none
    steps: int = number(400, least=1)  # optimiser steps with all labels
    least_steps: int = number(120, least=1)  # optimiser steps with the fewest
    epochs: float = number(60.0, above=0)  # passes over the labelled pairs, between least_steps and steps
    batch_size: int = number(64, least=2)  # pairs per step
    lr: float = number(2e-3, above=0)  # peak learning rate of AdamW
    weight_decay: float = number(0.05, least=0)  # weight decay of AdamW
    crop: CropConfig = field(default_factory=CropConfig)  # random crops of training samples

    def columns(self) -> dict[str, tuple[str, int | None]]:
        """Columns by name, such as frozen@10 and fine-tuned@all: the use of the encoder, and labels per class."""
        ways = ["frozen", "fine-tuned"] if self.whole == "all" else ["frozen"]
        return {f"{way}@{'all' if count is None else count}": (way, count) for way in ways for count in self.labels}

    def __post_init__(self) -> None:
        if self.crop.windows is not None:
            raise FieldError("crop.windows", f"must be null (a new crop every time), got {self.crop.windows}")
        if len({*self.labels}) < len(self.labels):
            raise FieldError("labels", f"must be different counts, got {self.labels}")


@dataclass(frozen=True)
class EvaluationConfig:
    """A group of metrics; further keys are its options."""

    name: str = choice("evaluations", from_key=True)  # see crossmodal list evaluations; by default the entry's own key
    options: dict[str, Any] = options_of("name")


def _usual() -> dict[str, EvaluationConfig]:
    return {name: EvaluationConfig(name) for name in ("classification", "retrieval")}


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal evaluate`."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "quantity": "metrics.regression",
        "diagnostics": "metrics.diagnostics",
        "retrieve_at": "metrics.retrieval.at",
        "neighbours": "metrics.classification.neighbours",
    }
    data: DataConfig  # the two folders of shards
    students: dict[
        str, list[str]
    ]  # folders of finished training runs by name; several folders of a name differ by seed only
    teacher: str | None = None  # teacher to compare with, by its name in the transfers' configs; null: the first
    metrics: dict[str, EvaluationConfig] = field(
        default_factory=_usual
    )  # evaluations by name; crossmodal list evaluations shows them
    few_labels: FewLabelsConfig | None = field(
        default_factory=FewLabelsConfig
    )  # learning curves with few labels; null: none
    trainings: int | None = number(None, least=1)  # students of each name; those missing are trained with other seeds
    seeds: int = number(
        3, least=1
    )  # repetitions with other labels, new weights and, if there are several, other students
    workers: int = number(2, least=0, runtime_only=True)  # worker processes that read and decode
    cache: CacheConfig | None = runtime_only(None)  # local copies of shards in a store; null: none; see docs/scale.md
    output: str = runtime_only("runs/evaluate")  # the run's folder

    def __post_init__(self) -> None:
        if not self.metrics and self.few_labels is None:
            raise FieldError("metrics", "must name at least one evaluation where few_labels is null")
        if not self.students:
            raise FieldError("students", "must name at least one finished run")
        if (self.trainings or 1) > self.seeds:
            raise FieldError("trainings", f"must be at most seeds, which is {self.seeds}, got {self.trainings}")
        for name, folders in self.students.items():
            if not 1 <= len(folders) <= self.seeds:
                raise FieldError(f"students.{name}", f"must have from 1 folder to one for each of the {self.seeds} "
                                 f"seeds, got {len(folders)}")  # fmt: skip

    def evaluations(self) -> dict[str, "Evaluation"]:
        """The evaluations by their keys in `metrics`; this imports torch.

        Raises:
            FieldError: an option is out of its range, or two metrics have one name.
        """
        found: dict[str, Evaluation] = {}
        for key, asked in self.metrics.items():
            try:
                found[key] = EVALUATIONS.get(asked.name)(**asked.options)
            except ValueError as error:
                raise FieldError(f"metrics.{key}", f"cannot be built: {error}") from error
        owners: dict[str, str] = dict.fromkeys(self.few_labels.columns() if self.few_labels else (), "few_labels")
        for key, evaluation in found.items():
            for metric in evaluation.metrics():
                if (other := owners.setdefault(metric.name, key)) != key:
                    raise FieldError(f"metrics.{key}", f"has a metric {metric.name!r}, as has {other}; leave one out")
        return found

    def columns(self, heads: Sequence[str] = ()) -> dict[str, "Metric"]:
        """Everything that may be measured, by name, with the spaces of these objectives; this imports torch.

        Raises:
            FieldError: see `evaluations`.
        """
        from crossmodal.evaluation import Metric

        found = {metric.name: metric for each in self.evaluations().values()
                 for metric in each.metrics_in(heads)}  # fmt: skip
        few = self.few_labels.columns() if self.few_labels else {}
        for name, (way, count) in few.items():
            labels = "all labels" if count is None else f"{count} labels a class"
            found[name] = Metric(name, f"{way}, {labels}", needs=("labels",))
        return found
