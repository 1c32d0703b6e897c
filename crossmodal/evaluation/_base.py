"""The interface of an evaluation: named metrics of a trained network, measured on pairs it never saw."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.encoders import Encoder, Features, Spec
from crossmodal.metrics.intervals import Totals

UNEVEN = 3  # times as many pairs in the largest class as in the smallest: balanced accuracy decides
Need = Literal["labels", "teacher", "heads", "classifier", "student"]
Kind = Literal["student", "teacher", "inflated"]


@dataclass(frozen=True)
class Point:
    """The place of a metric on a curve, such as mIoU by labelled pictures. Metrics of one heading are on one curve."""

    heading: str  # what is measured, with its unit
    by: str  # what changes along the curve
    at: int | None  # the number of these; None: all, after every number
    line: str = ""  # one of several lines that a network has on the curve


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation: a key of report.json and a column of the tables, or a point of a curve."""

    name: str  # the key, unique among all evaluations of a run
    heading: str  # of the column
    higher_is_better: bool = True
    percent: bool = True  # whether tables show it times 100
    needs: tuple[Need, ...] = ()  # a network is measured only where there are all of these; see `Network.provides`
    point: Point | None = None  # the report shows a curve in place of a column


@dataclass(frozen=True)
class Subject:
    """The view and the sizes of networks, known before they are measured."""

    view: View
    spec: Spec


@dataclass(frozen=True)
class Pairs:
    """The two parts of the data. Both have the same classes, each has a labelled pair if there are classes."""

    train: Shards  # to learn from
    test: Shards  # to judge by: no network has seen them
    has_teacher: bool = False  # whether networks are compared with a teacher
    heads: tuple[str, ...] = ()  # the objectives of which some network shares a space with the teacher
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where encoders run
    workers: int = 0  # processes that read and decode
    # the networks by what they are; those whose kind is not here are not measured
    subjects: Mapping[Kind, Subject] = field(default_factory=dict)
    read: dict[tuple[str, tuple[int, ...]], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty where the pairs have none."""
        return self.train.manifest.classes

    @cached_property
    def labels(self) -> tuple[Int[Tensor, " train"], Int[Tensor, " test"]]:
        """The class of every pair of both parts, -1 where it has none."""
        return self.train.labels(), self.test.labels()

    def provides(self) -> set[Need]:
        """The needs that these pairs meet for every network except the teacher."""
        there: dict[Need, bool] = {"labels": bool(self.classes), "teacher": self.has_teacher, "student": True}
        return {need for need, given in there.items() if given}

    @cached_property
    def majority(self) -> float:
        """Accuracy of the constant answer that is right most often: the share of the largest class of test pairs."""
        labels = self.labels[1][self.labels[1] >= 0]
        return labels.bincount().max().item() / len(labels)

    @cached_property
    def uneven(self) -> bool:
        """True if the largest class of labelled test pairs is more than `UNEVEN` times the smallest."""
        labels = self.labels[1][self.labels[1] >= 0]
        counts = labels.bincount(minlength=len(self.classes))
        there = counts[counts > 0]
        return len(there) > 0 and bool(there.max() > UNEVEN * there.min())

    def facts(
        self, name: str, columns: tuple[int, ...]
    ) -> tuple[Float[Tensor, "train columns"], Float[Tensor, "test columns"]]:
        """Numbers that come with the pairs in their JSON, of both parts; they are read once.

        Raises:
            ValueError: a pair does not have them.
        """
        key = name, columns
        if key not in self.read:
            parts = (_read_facts(shards, name, columns) for shards in (self.train, self.test))
            self.read[key] = next(parts), next(parts)
        return self.read[key]


@dataclass
class Artefacts:
    """Pictures and numbers of one network that an evaluation gives to the report beside its metrics.

    Pictures show the same few pairs for every network. The report shows the context once, and below it, title by title,
    the pictures of all networks.
    """

    # by title: what networks are given and what is right, such as input and truth
    context: dict[str, UInt8[Tensor, "pairs 3 _ _"]] = field(default_factory=dict)
    # by title: what the network makes of it
    pictures: dict[str, UInt8[Tensor, "pairs 3 _ _"]] = field(default_factory=dict)
    # by title: three numbers at each place, which the report shows as colours that are similar where networks agree
    components: dict[str, Float[Tensor, "pairs 3 _ _"]] = field(default_factory=dict)
    # what colours in the pictures mean, the same for every network: "#rrggbb" by label
    legend: dict[str, str] = field(default_factory=dict)
    # numbers by title and label, such as the IoU of each class, for bar charts
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    # by title: how many test pairs of each class (row) were answered with each class (column)
    confusions: dict[str, Int[Tensor, "classes classes"]] = field(default_factory=dict)
    # by metric: how it comes from the single test pairs, for its confidence interval; not every metric has this
    totals: dict[str, Totals] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A network to measure, with the features that it gives of both parts, on the CPU."""

    encoder: Encoder  # in evaluation mode
    view: View
    train: Features  # without maps
    test: Features
    classes: Sequence[str] = ()  # names of its logits; empty: it has none
    # The test pairs in one space, as this network and as the teacher embed them: `map` is a linear map fitted on the
    # training pairs; the others are the spaces that objectives trained, by objective. Empty where there is no teacher.
    spaces: Mapping[str, tuple[Float[Tensor, "test _"], Float[Tensor, "test _"]]] = field(default_factory=dict)
    teacher: tuple[Features, Features] | None = None  # the teacher's features of both parts, if there is a teacher
    # "student": the students' architecture and view; "inflated": the teacher's architecture on the students' view
    kind: Kind = "student"
    artefacts: Artefacts = field(default_factory=Artefacts)  # `Evaluation.measure` may add to it

    def provides(self, pairs: Pairs) -> set[Need]:
        """The needs that are met for this network."""
        own: dict[Need, bool] = {
            "labels": bool(pairs.classes),
            "teacher": "map" in self.spaces,
            "heads": bool(self.spaces.keys() - {"map"}),
            "classifier": self.test.logits is not None and bool(pairs.classes) and [*self.classes] == pairs.classes,
            "student": self.kind != "teacher",
        }
        return {need for need, given in own.items() if given}


@dataclass(frozen=True)
class Targets:
    """The targets of a baseline: the students' encoder is trained on them from scratch, on all training pairs."""

    name: str  # the baseline is the row "scratch, trained on <name>"
    values: Float[Tensor, "train out"]  # standardised by whoever trains on them


class Evaluation(ABC):
    """A group of metrics. Entries are frozen dataclasses whose fields are the options that a config may set."""

    # whether networks are also compared with the teacher's weights on the students' input, see `Kind`
    inflates: ClassVar[bool] = False

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that these options allow, in the order of the columns."""

    def metrics_in(self, heads: Sequence[str]) -> tuple[Metric, ...]:
        """The metrics, with those in the spaces that these objectives share with the teacher."""
        return self.metrics()

    @abstractmethod
    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The value of each metric for an embedding without information, where it is known.

        It is called before anything is measured, and only where the pairs have what some metric needs.

        Raises:
            ValueError: the options do not fit the pairs.
        """

    @abstractmethod
    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """The metrics of a network: all finite: those of whose `needs` the network provides every one.

        What is fitted is fitted on training pairs; test pairs are only judged by. Pictures and numbers for the report
        are added to `network.artefacts`.
        """

    def notes(self, pairs: Pairs) -> Iterator[str]:  # most entries have none
        """Sentences on what can be measured only with less than was asked for; the report shows them."""
        yield from ()

    def targets(self, pairs: Pairs) -> Targets | None:
        """The targets of a baseline that is trained from scratch; None: there is no such baseline."""
        return None


def _read_facts(shards: Shards, name: str, columns: tuple[int, ...]) -> Tensor:
    return torch.tensor([_read_fact(shards, index, name, columns) for index in range(len(shards))], dtype=torch.float32)


def _read_fact(shards: Shards, index: int, name: str, columns: tuple[int, ...]) -> list[float]:
    facts, (path, row) = shards.facts(index), shards.locate(index)
    pair = f"pair {row.key!r} of {path}"
    if name not in facts:
        raise ValueError(f"{pair} has no fact {name!r}; it has {', '.join(facts)}")
    there: dict[int, Any] = dict(enumerate(facts[name])) if isinstance(facts[name], list) else {}
    numbers: list[Any] = [there.get(column) for column in columns]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        asked = ", ".join(map(str, columns))
        raise ValueError(
            f"{pair} must have finite numbers in {name!r} at columns {asked}, got {str(facts[name])[:200]}"
        )
    return numbers
