"""The measurements behind `crossmodal evaluate`."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from crossmodal.checkpoint import write
from crossmodal.data.views import View
from crossmodal.encoders import Encoder
from crossmodal.evaluation import Artefacts, Evaluation, Kind, Network, Pairs, Subject
from crossmodal.metrics import retrieval
from crossmodal.metrics.intervals import Resampling, Totals
from crossmodal.models import Model
from pipelines.building.teachers import inflate_teacher
from pipelines.config import ConfigError, FieldError, at
from pipelines.evaluation.embedding import Embeddings
from pipelines.evaluation.learning import Learning, Point
from pipelines.evaluation.results import Row, Table, means
from pipelines.evaluation.spaces import heads_of, in_heads, linear_map, spaces_of
from pipelines.evaluation.verdict import Setting, verdicts
from pipelines.evaluation.warnings import counts_there, shortfalls
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.runs.folder import RunFolder

LACKS = {"labels": "the pairs have no classes", "teacher": "no student had a teacher"}


@dataclass(frozen=True)
class Asked:
    """A network that the table asks for."""

    who: str  # its row
    see: Callable[[], Network]
    model: Model | None = None  # a student
    classes: Sequence[str] = ()  # names of its logits; empty: it has none


@dataclass(frozen=True)
class Evaluator(Embeddings):
    """Measures everything that one evaluate run is asked for; all processes of a launch share the work."""

    run: RunFolder
    pictures: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)  # by evaluation, row and title
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)  # by evaluation: titles of pictures, and the legend
    # numbers of each repetition, by evaluation, title, row and label
    details: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = field(default_factory=dict)
    confusions: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # summed over repetitions, by title and row

    @cached_property
    def table(self) -> Table:
        """Metrics by network and name."""
        return Table(self._resampling)

    @cached_property
    def curves(self) -> Table:
        """Accuracy by network and number of labels a class."""
        return Table(self._resampling)

    @cached_property
    def balanced_curves(self) -> Table:
        """Balanced accuracy, likewise."""
        return Table(self._resampling)

    def _verdict(self) -> list[str]:
        """The answer in sentences."""
        known = self.labels[0][self.labels[0] >= 0]
        setting = Setting(
            self.table, self.curves, self.balanced_curves, self.columns,
            modality=self.first.card.modality,
            answer=self.teacher_view.modality.field if self.taught else "",
            test_pairs=len(self.test),
            all_labels=len(known) / max(1, len(known.unique())),
            uneven=bool(self.classes) and self._pairs.uneven,
            steps=self.config.few_labels.steps if self.config.few_labels else 0,
            grouped=any(self._resampling.groups),
        )  # fmt: skip
        return verdicts(setting, {name: len(models) for name, models in self.students.items()})

    @cached_property
    def _resampling(self) -> Resampling:
        return Resampling(self.test.groups())

    def measure(self) -> dict[str, Any]:
        """Everything the config asks for, as plain content; empty on other processes than the main one."""
        began = time.monotonic()
        distributed.together(self._check)
        vars(self)["copies"] = distributed.from_main(lambda: self.copies)  # which reads much
        distributed.from_main(self.run.begin)
        notes = [*shortfalls(self.config, self.parts, self.labels), *self._notes()]
        for line in notes:
            say(f"{self.run.path}: {line}")
        teacher = None if self.teacher is None else self.embed(self.teacher.encoder, self.teacher_view)
        self._measure_all([*self._networks(teacher)], teacher)
        learning, measure = Learning(self, str(self.run.path)), partial(self._measure, teacher=teacher)
        if self.classes and counts_there(self.config.few_labels, self.labels[0]):
            measure_own = partial(measure, classes=self.classes)
            for point in chain(learning.frozen(teacher), learning.whole(measure_own)):
                self._point(point)
        for evaluation in self._active.values():
            if (targets := evaluation.targets(self._pairs)) is not None:
                for row in learning.on_targets(targets, measure):
                    self._record(row)
        self._save_examples(teacher)
        self._save_pictures()
        if not distributed.is_main():
            return {}
        return {"figures": self._figures(notes) | {"seconds": round(time.monotonic() - began, 1)}}

    def _networks(self, teacher: Network | None) -> Iterator[Asked]:
        """The networks of the table that need no further training."""
        if teacher is not None:
            assert self.teacher is not None
            yield Asked("teacher", lambda: replace(teacher, kind="teacher"), classes=self.teacher.classes)
        for name, models in self.students.items():
            for model in models:
                yield Asked(name, partial(self.see, model), model, model.card.classes)
        for seed in range(self.config.seeds):
            yield Asked("random weights", lambda seed=seed: self.embed(self.new(seed, 0), self.view))  # type: ignore[misc]
        if (inflated := self.inflated) is not None:
            name = "teacher's weights, students' input"
            yield Asked(name, lambda: replace(self.embed(inflated, self.view), kind="inflated"))

    def _measure_all(self, asked: Sequence[Asked], teacher: Network | None) -> None:
        """Adds rows to the table, as many at a time as there are processes: all embed, then each measures one."""

        def measure(each: Asked, own: list[Network]) -> Row:
            compared = None if own[0].kind == "teacher" else teacher
            return self._measure(each.who, own[0], compared, each.model, classes=each.classes)

        ranks = distributed.count()
        for start in range(0, len(asked), ranks):
            group, own = asked[start : start + ranks], list[Network]()
            for place, each in enumerate(group):
                seen = each.see()
                if place == distributed.rank():  # the features of others are dropped
                    own.append(seen)
            for row in distributed.deal([partial(measure, each, own) for each in group]):
                self._record(row)

    def _figures(self, notes: list[str]) -> dict[str, Any]:
        """The figures of the report."""
        details = {
            key: {title: {who: means(figures) for who, figures in rows.items()} for title, rows in titles.items()}
            for key, titles in self.details.items()
        }
        return {
            **({"details": details} if details else {}),
            **({"shown": self.shown} if self.shown else {}),
            "verdict": self._verdict(),
            "metrics": self.columns,
            "table": self.table.summaries(lambda name: self.columns[name]["percent"]),
            "few_labels": self.curves.summaries(),
            **({"few_labels_balanced": self.balanced_curves.summaries()} if self.balanced_curves.rows else {}),
            "confusion": {
                title: {who: counts.tolist() for who, counts in rows.items()} for title, rows in self.confusions.items()
            },
            "groups": self._resampling.units,
            "seeds": self.config.seeds,
            "train_pairs": len(self.train),
            "test_pairs": len(self.test),
            "labelled": [int((labels >= 0).sum()) for labels in self.labels] if self.classes else None,
            "copies": self.copies[0],
            "untold": self.copies[1],
            "classes": self.classes,
            "notes": notes,
        }

    def _check(self) -> None:
        """Refuses wrong configs and data before anything is measured."""
        if self.classes != self.test.manifest.classes:
            raise ConfigError([f"data: {self.train.folder} and {self.test.folder} must have the same classes"])
        for name, part, labels in zip(("train", "test"), self.parts, self.labels, strict=True):
            if self.classes and (labels < 0).all():
                raise ConfigError([f"data.{name}: none of the {len(part)} pairs of {part.folder} has a label, and "
                                   "accuracy needs some; label them, or make both parts without classes"])  # fmt: skip
        if self.classes and len(judged := (labels := self.labels[1])[labels >= 0].unique()) == 1:
            raise ConfigError([f"data.test: all labelled pairs of {self.test.folder} are of class "
                               f"{self.classes[int(judged[0])]!r}, so any constant answer is right; divide the pairs "
                               "anew, with test pairs of every class"])  # fmt: skip
        assert self._chance is not None
        assert self.view and (self.taught is None or self.teacher)

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs(*self.parts, has_teacher=self.taught is not None, heads=self._heads, device=self.device,
                     workers=self.config.workers, subjects=self._subjects)  # fmt: skip

    @cached_property
    def _heads(self) -> tuple[str, ...]:
        """The objectives that share a space with the teacher."""
        if self.taught is None or self.teacher is None:
            return ()
        name, spec = self.taught[0], self.teacher.encoder.spec
        every = [heads_of(model, spec, name) for models in self.students.values() for model in models]
        return tuple(dict.fromkeys(head for heads in every for head in heads))

    @cached_property
    def _subjects(self) -> dict[Kind, Subject]:
        seen: dict[Kind, tuple[View, Encoder]] = {"student": (self.view, self.first.encoder)}
        if self.teacher is not None:
            seen["teacher"] = self.teacher_view, self.teacher.encoder
        if self.inflated is not None:
            seen["inflated"] = self.view, self.inflated
        return {kind: Subject(view, encoder.spec) for kind, (view, encoder) in seen.items()}

    @cached_property
    def _evaluations(self) -> dict[str, Evaluation]:
        """The evaluations of the config, by key."""
        try:
            return self.config.evaluations()
        except FieldError as error:
            raise ConfigError([str(error)]) from error

    def _lacks(self, evaluation: Evaluation) -> list[str]:
        """Why nothing of an evaluation can be measured on these pairs; empty where something can."""
        there = self._pairs.provides()
        lacking = [[LACKS[need] for need in metric.needs if need in LACKS and need not in there]
                   for metric in evaluation.metrics()]  # fmt: skip
        return min(lacking, key=len)

    @cached_property
    def _active(self) -> dict[str, Evaluation]:
        """Those that can be measured."""
        return {key: each for key, each in self._evaluations.items() if not self._lacks(each)}

    @cached_property
    def _chance(self) -> dict[str, float]:
        """The chance level of each metric."""
        found = dict[str, float]()
        for key, evaluation in self._active.items():
            with at(f"metrics.{key}"):
                found |= evaluation.chance(self._pairs)
        if self.config.few_labels and self.classes:
            found |= dict.fromkeys(self.config.few_labels.columns(), self._pairs.majority)
        return found

    @cached_property
    def columns(self) -> dict[str, dict[str, Any]]:
        """How tables show each metric, by name."""
        return {
            name: {
                "heading": metric.heading,
                "higher_is_better": metric.higher_is_better,
                "percent": metric.percent,
                "chance": self._chance.get(name),
                **({"point": asdict(metric.point)} if metric.point else {}),
            }
            for name, metric in self.config.columns(self._heads).items()
        }

    def _notes(self) -> Iterator[str]:
        if self._inflation[1]:
            yield self._inflation[1]
        for key, evaluation in self._evaluations.items():
            if lacking := self._lacks(evaluation):
                yield f"metrics.{key}: not measured, for {' and '.join(lacking)}"
            else:
                yield from (f"metrics.{key}: {note}" for note in evaluation.notes(self._pairs))

    def _measure(
        self,
        who: str,
        seen: Network,
        teacher: Network | None,
        model: Model | None = None,
        *,
        classes: Sequence[str] = (),
    ) -> Row:
        """One more seed of `who`, whose logits, where it has any, are of `classes`; no other process takes part."""
        say(f"{self.run.path}: measuring {who}")
        network = replace(seen, classes=classes)
        if teacher is not None:
            spaces = spaces_of(model, seen, teacher, self.taught[0] if self.taught else None)
            network = replace(network, spaces=spaces, teacher=(teacher.train, teacher.test))
        row = Row(who, {}, {})
        for key, evaluation in self._active.items():
            declared = {metric.name for metric in evaluation.metrics_in(self._heads)}
            given = Artefacts()
            for name, value in evaluation.measure(replace(network, artefacts=given), self._pairs).items():
                if name not in declared or not math.isfinite(value):
                    raise ValueError(f"metrics.{key} measured {name!r} of {who} as {value}; a metric must be declared "
                                     "and finite")  # fmt: skip
                totals = given.totals.get(name)
                row.figures[name] = value, None if totals is None else self._resampling(totals)
            row.shown[key] = replace(given, totals={})
        return row

    def _record(self, row: Row) -> None:
        """Adds a measured row to the table, and to what the report shows; in the main process."""
        if not distributed.is_main():
            return
        self.table.rows.setdefault(row.who, {})
        for name, (value, resampled) in row.figures.items():
            self.table.record(row.who, name, value, resampled)
        for key, given in row.shown.items():
            self._show(key, row.who, given)

    def _show(self, key: str, who: str, given: Artefacts) -> None:
        """Keeps what an evaluation gives beside its metrics."""
        for title, counts in given.confusions.items():
            rows_of_title = self.confusions.setdefault(title, {})
            rows_of_title[who] = rows_of_title[who] + counts if who in rows_of_title else counts
        kinds = {"context": given.context, "pictures": given.pictures, "components": given.components}
        for title, pictures in (item for rows in kinds.values() for item in rows.items()):
            self.pictures.setdefault((key, who, title), pictures)  # of the first seed
        if any(kinds.values()):
            shown = self.shown.setdefault(key, {"legend": {}} | {kind: [] for kind in kinds})
            shown["legend"] |= given.legend
            for kind, rows in kinds.items():
                shown[kind] = [*dict.fromkeys([*shown[kind], *rows])]
        for title, values in given.values.items():
            found = self.details.setdefault(key, {}).setdefault(title, {}).setdefault(who, {})
            for label, value in values.items():
                found.setdefault(label, []).append(value)

    @property
    def inflated(self) -> Encoder | None:
        """The teacher's network with its weights on the students' input, where an evaluation compares with it."""
        return self._inflation[0]

    @cached_property
    def _inflation(self) -> tuple[Encoder | None, str]:
        """The inflated teacher, or why there is none."""
        if self.taught is None or not any(each.inflates for each in self._evaluations.values()):
            return None, ""
        name, config = self.taught
        try:
            return inflate_teacher(config.teachers[name], self.view.modality.shape), ""
        except ValueError as error:
            return (
                None,
                f"the teacher's weights are not measured on the students' input, which they do not fit: {error}",
            )

    def _point(self, point: Point) -> None:
        """One more seed of a curve; in the main process."""
        if not distributed.is_main():
            return
        judge, name = self.labels[1], "all" if point.count is None else str(point.count)
        totals = Totals.mean(point.right.masked_fill(judge < 0, math.nan))
        self.curves.add(point.who, name, totals(), totals)
        if self._pairs.uneven:
            balanced = Totals.balanced(point.right, judge, len(self.classes))
            self.balanced_curves.add(point.who, name, balanced(), balanced)
        if point.row is not None:
            self._record(point.row)

    def _save_examples(self, teacher: Network | None) -> None:
        """Test embeddings of the first student, in its space with the teacher, and what some queries retrieve there."""
        seen = self.see(self.first)
        if not distributed.is_main():
            return
        examples = {"student": seen.test.embedding, "label": self.labels[1]}
        if teacher is not None:
            trained = in_heads(self.first, seen.test, teacher.test, self.taught[0] if self.taught else None)
            ours, theirs = next(iter(trained.values()), None) or linear_map(seen, teacher)
            queries = torch.linspace(0, len(ours) - 1, min(8, len(ours))).long()
            found = retrieval.nearest(ours[queries], theirs, min(5, len(theirs)))
            examples |= {"student": ours, "teacher": theirs, "queries": queries, "found": found}
        plain = {name: tensor.contiguous() for name, tensor in examples.items()}
        write(self.run.path / "examples.safetensors", save(plain))

    def _save_pictures(self) -> None:
        """Saves pictures of test pairs; names of tensors are JSON lists of evaluation, row and title."""
        if self.pictures:
            plain = {json.dumps(name): pictures.contiguous().clone() for name, pictures in self.pictures.items()}
            write(self.run.path / "pictures.safetensors", save(plain))
