"""The config of `crossmodal compare`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from modalities.common.catalogue import suggest
from pipelines.config import FieldError, number, runtime_only
from pipelines.schemas import evaluate, report, transfer
from pipelines.schemas.common import HeldOutConfig, ObjectiveConfig

if TYPE_CHECKING:
    from crossmodal.evaluation import Metric

HEADS = "heads."  # of the only trained space that a row has, whatever its objective is called
NAME = re.compile(r"[A-Za-z0-9_+-]+")  # of an entry, which is a folder and a row


TAKEN = ("search", "evaluation", "report", "teacher", "scratch", "chance")  # other folders and rows


@dataclass(frozen=True, order=True)
class Trial:
    """One setting of the search, as factors of the config's values."""

    weight: float = 1.0  # factor of the weights of the row's own objectives
    rate: float = 1.0  # factor of train.lr

    @property
    def departure(self) -> float:
        """The distance from the config's values, in powers of e."""
        return abs(math.log(self.weight)) + abs(math.log(self.rate))

    def __str__(self) -> str:
        return f"weight_{self.weight:g}" + (f"_rate_{self.rate:g}" if self.rate != 1 else "")


@dataclass(frozen=True)
class SearchConfig:
    """A grid search, the same for every row: all combinations of a weight and a rate."""

    weights: list[float] = number([0.1, 1.0, 10.0], above=0)  # factors of the weights of a row's own objectives
    rates: list[float] = number([1.0], above=0)  # factors of train.lr
    epochs: int | None = number(None, least=1)  # epochs of a trial; null: as many as in the final training
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)  # training pairs on which the trials are evaluated
    seed: int = 0  # seed of the trials

    def __post_init__(self) -> None:
        for name, factors in (("weights", self.weights), ("rates", self.rates)):
            if not factors or len({*factors}) < len(factors):
                raise FieldError(name, f"must be one or more different factors, got {factors}")


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal compare`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"measures": "metrics"}
    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "transfer.objectives": {},
        "evaluate.data.train": "(transfer.data)",
        "evaluate.students": {"(objectives)": ["(seeds)"]},
    }
    DERIVED: ClassVar[Mapping[str, str]] = {
        "transfer.objectives": "objectives and beside",
        "transfer.held_out": "search.held_out, and in the end there is none",
        "transfer.seed": "seeds and search.seed",
        "transfer.output": "output",
        "evaluate.data.train": "transfer.data",
        "evaluate.students": "objectives and seeds",
        "evaluate.seeds": "seeds",
        "evaluate.output": "output",
    }
    transfer: (
        transfer.Config
    )  # shared training config (base: FILE); objectives, seed, held_out and output come from below
    evaluate: evaluate.Config  # evaluation config with data.test; data.train, students, seeds and output are set
    objectives: dict[str, dict[str, ObjectiveConfig]]  # objectives by row of the table
    beside: dict[str, ObjectiveConfig] = field(default_factory=dict)  # objectives in every row, at these weights
    metrics: list[str] = field(default_factory=lambda: ["probe", "knn"])  # columns: metrics of evaluate, or frozen@10
    search: SearchConfig | None = field(default_factory=SearchConfig)  # by the first metric; null: nothing is tuned
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # of the students that are compared
    output: str = runtime_only("runs/compare")  # the run's folder; every training's folder lies in it

    def __post_init__(self) -> None:
        self._check_rows()
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise FieldError("seeds", f"must be one or more different numbers, got {self.seeds}")
        if self.transfer.train.lr is None and self.search is not None and self.search.rates != [1.0]:
            raise FieldError("transfer.train.lr", "must be given where search.rates multiplies it")
        if self.evaluate.data.test is None:
            raise FieldError("evaluate.data.test", "must be given: what is compared in the end")
        self._check_features()
        for name in self.objectives:
            try:
                self.final(name, Trial(), self.seeds[0])
            except FieldError as error:
                raise FieldError(error.key.replace("objectives", f"objectives.{name}", 1), error.problem) from error
        self._check_metrics()

    def _check_features(self) -> None:
        kept = [f"transfer.teachers.{name}.features" for name, teacher in self.transfer.teachers.items()
                if teacher.features is not None]  # fmt: skip
        if kept and len(self.seeds) > 1:
            raise FieldError(kept[0], "must be null where there are several seeds, for a seed decides the windows that "
                             "were kept")  # fmt: skip
        if kept and self.search is not None and self.search.seed != self.seeds[0]:
            raise FieldError("search.seed", f"must be {self.seeds[0]}, as in seeds, where {kept[0]} is given, for a "
                             f"seed decides the windows that were kept, got {self.search.seed}")  # fmt: skip

    def _check_rows(self) -> None:
        if not self.objectives:
            raise FieldError("objectives", "must name at least one row of the table")
        for name, own in self.objectives.items():
            if not NAME.fullmatch(name) or name in TAKEN:
                raise FieldError(
                    f"objectives.{name}", f"needs another name: of letters, digits, _, + and -, not {', '.join(TAKEN)}"
                )
            if not own and not self.beside:
                raise FieldError(f"objectives.{name}", "must have an objective, for there is none beside it")
            for twice in own.keys() & self.beside.keys():
                raise FieldError(f"objectives.{name}.{twice}", "is beside every row already; give it another name")

    def _check_metrics(self) -> None:
        """Last of all checks, for it imports torch."""
        if not self.metrics or len({*self.metrics}) < len(self.metrics):
            raise FieldError("metrics", f"must be one or more different metrics, got {self.metrics}")
        teacher = self.evaluate.teacher
        if teacher is not None and teacher not in self.transfer.teachers:
            raise FieldError("evaluate.teacher", f"must be of the transfer's teachers, got {teacher!r}"
                             f"{suggest(teacher, list(self.transfer.teachers))}")  # fmt: skip
        try:
            columns = self.columns()
        except FieldError as error:
            raise FieldError(f"evaluate.{error.key}", error.problem) from error
        for place, name in enumerate(self.metrics):
            if name not in columns:
                raise FieldError(f"metrics.{place}", f"must be a metric that evaluate.metrics or evaluate.few_labels "
                                 f"measures, got {name!r}{suggest(name, list(columns))}")  # fmt: skip
            needs = columns[name].needs
            if "teacher" in needs and not self.transfer.teachers:
                raise FieldError(f"metrics.{place}", f"is {name}, which needs a teacher; transfer.teachers has none")
            if "heads" in needs and place == 0:
                raise FieldError("metrics.0", f"is {name}, which objectives without heads lack; put another one first")

    def columns(self) -> dict[str, "Metric"]:
        """All metrics that can be in the table; those of `heads` are in the only trained space that a row has."""
        names = [*self.beside, *(name for own in self.objectives.values() for name in own)]
        return self.evaluate.columns(list(dict.fromkeys(["heads", *names])))

    def is_blind(self, name: str) -> bool:
        """True if the weight changes nothing: AdamW normalises the gradient, and the row has no other objective."""
        train = self.transfer.train
        return not self.objectives[name] or (not self.beside and train.optimiser == "adamw" and train.clip_norm is None)

    def trials(self, name: str) -> list[Trial]:
        """The trials of a row; empty if there is only one setting."""
        if self.search is None:
            return []
        weights = [1.0] if self.is_blind(name) else self.search.weights
        found = [Trial(weight, rate) for weight in weights for rate in self.search.rates]
        return [] if found == [Trial()] else found

    def trial(self, name: str, trial: Trial) -> transfer.Config:
        """The training of a trial, on the pairs that are not held out."""
        assert self.search is not None
        train = replace(self.transfer.train, epochs=self.search.epochs or self.transfer.train.epochs)
        shared = replace(self.transfer, train=train)
        return self._student(
            shared, name, trial, held_out=self.search.held_out, seed=self.search.seed, part=f"search/{name}/{trial}"
        )

    def judge_trials(self, students: dict[str, list[str]]) -> evaluate.Config:
        """The evaluation of trials: the first metric, on the pairs held out, and no more than it needs."""
        assert self.search is not None
        first, few, metrics = self.metrics[0], None, dict[str, evaluate.EvaluationConfig]()
        asked = self.evaluate.few_labels
        if asked is not None and first in asked.columns():
            way, count = asked.columns()[first]
            whole: Literal["all", "none"] = "all" if way == "fine-tuned" else "none"
            few = replace(asked, labels=[count], whole=whole)
        else:
            metrics = {
                key: self.evaluate.metrics[key]
                for key, evaluation in self.evaluate.evaluations().items()
                if first in [metric.name for metric in evaluation.metrics()]
            }
        return replace(
            self.evaluate,
            data=evaluate.DataConfig(self.transfer.data, held_out=self.search.held_out),
            students=students,
            metrics=metrics,
            few_labels=few,
            seeds=len(self.seeds),
            output=f"{self.output}/search/evaluation",
        )

    def judge(self, students: dict[str, list[str]]) -> evaluate.Config:
        """The evaluation of the students that are compared, on the test set."""
        return replace(
            self.evaluate,
            data=evaluate.DataConfig(self.transfer.data, self.evaluate.data.test),
            students=students,
            seeds=len(self.seeds),
            output=f"{self.output}/evaluation",
        )

    def final(self, name: str, trial: Trial, seed: int) -> transfer.Config:
        """The training of a student that is compared, on all training pairs."""
        return self._student(self.transfer, name, trial, held_out=None, seed=seed, part=f"{name}/seed_{seed}")

    def page(self) -> report.Config:
        """The report of it all."""
        return report.Config(
            [self.output, f"{self.output}/evaluation"], "Objectives compared", "pca", f"{self.output}/report"
        )

    def _student(
        self,
        shared: transfer.Config,
        name: str,
        trial: Trial,
        *,
        held_out: HeldOutConfig | None,
        seed: int,
        part: str,
    ) -> transfer.Config:
        own = {key: replace(term, weight=term.weight * trial.weight) for key, term in self.objectives[name].items()}
        return replace(
            shared,
            objectives=own | self.beside,
            train=replace(shared.train, lr=shared.train.lr * trial.rate) if shared.train.lr else shared.train,
            held_out=held_out,
            seed=seed,
            output=f"{self.output}/{part}",
        )
