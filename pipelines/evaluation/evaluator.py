"""The measurements behind `crossmodal evaluate`."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from crossmodal.checkpoint import write
from crossmodal.data.reader import SampleBatch, sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Encoder, Features
from crossmodal.evaluation import Artefacts, Evaluation, Kind, Network, Pairs, Subject, Targets
from crossmodal.metrics import few_labels, probe, retrieval
from crossmodal.metrics.intervals import Resampling, Totals
from crossmodal.models import Model
from pipelines.building.teachers import inflate_teacher
from pipelines.config import ConfigError, FieldError, at
from pipelines.evaluation.decoded import HELD, Chosen, Decoded
from pipelines.evaluation.results import Table, means
from pipelines.evaluation.spaces import heads_of, in_heads, linear_map, spaces_of
from pipelines.evaluation.subjects import Subjects
from pipelines.evaluation.verdict import Setting, verdicts
from pipelines.evaluation.warnings import counts_there, shortfalls
from pipelines.runs.console import say
from pipelines.runs.folder import RunFolder
from pipelines.schemas.evaluate import FewLabelsConfig
from pipelines.training.loop import seed_everything

LACKS = {"labels": "the pairs have no classes", "teacher": "no student had a teacher"}


@dataclass(frozen=True)
class Evaluator(Subjects):
    """Measures everything that one evaluate run is asked for."""

    run: RunFolder
    # what a view gives of small data sets
    held: dict[tuple[str, bool], list[SampleBatch]] = field(default_factory=dict)
    pictures: dict[tuple[str, str, str], Tensor] = field(default_factory=dict)  # by evaluation, row and title
    shown: dict[str, dict[str, Any]] = field(default_factory=dict)  # by evaluation: titles of pictures, and the legend
    # numbers of each repetition, by evaluation, title, row and label
    details: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = field(default_factory=dict)
    confusions: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # summed over repetitions, by title and row
    seen: dict[int, Network] = field(default_factory=dict)  # what students gave, by the id of their encoder

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
        """Everything the config asks for, as plain content."""
        began = time.monotonic()
        self._check()
        self.run.begin()
        notes = [*shortfalls(self.config, self.parts, self.labels), *self._notes()]
        for line in notes:
            say(f"{self.run.path}: {line}")
        teacher = None
        if self.teacher is not None:
            teacher = self._embed(self.teacher.encoder, self.teacher_view)
            self._describe("teacher", replace(teacher, kind="teacher"), None, classes=self.teacher.classes)
        for name, models in self.students.items():
            for model in models:
                self._describe(name, self._see(model), teacher, model, classes=model.card.classes)
        for seed in range(self.config.seeds):
            self._describe("random weights", self._embed(self._new(seed, 0), self.view), teacher)
        if self.inflated is not None:
            seen = self._embed(self.inflated, self.view)
            self._describe("teacher's weights, students' input", replace(seen, kind="inflated"), teacher)
        if self.classes and counts_there(self.config.few_labels, self.labels[0]):
            self._few_labels(teacher)
        for evaluation in self._active.values():
            if (targets := evaluation.targets(self._pairs)) is not None:
                self._scratch_on(targets, teacher)
        self._save_examples(teacher)
        self._save_pictures()
        details = {
            key: {title: {who: means(figures) for who, figures in rows.items()} for title, rows in titles.items()}
            for key, titles in self.details.items()
        }
        return {
            "figures": {
                **({"details": details} if details else {}),
                **({"shown": self.shown} if self.shown else {}),
                "verdict": self._verdict(),
                "metrics": self.columns,
                "table": self.table.summaries(lambda name: self.columns[name]["percent"]),
                "few_labels": self.curves.summaries(),
                **({"few_labels_balanced": self.balanced_curves.summaries()} if self.balanced_curves.rows else {}),
                "confusion": {
                    title: {who: counts.tolist() for who, counts in rows.items()}
                    for title, rows in self.confusions.items()
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
                "seconds": round(time.monotonic() - began, 1),
            }
        }

    @cached_property
    def device(self) -> torch.device:
        """The GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

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
        assert self.copies[0] < len(self.test)

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

    def _new(self, seed: int, classes: int) -> Encoder:
        """The students' encoder at new weights."""
        torch.manual_seed(seed)
        return self.first.card.build(classes).eval()

    def _see(self, model: Model) -> Network:
        """A student's features, computed once as long as `HELD` numbers hold all of them."""
        key = id(model.encoder)
        if key in self.seen:
            return self.seen[key]
        found = self._embed(model.encoder, self.view)
        kept = [part.embedding.numel() for seen in (found, *self.seen.values()) for part in (seen.train, seen.test)]
        if sum(kept) <= HELD:
            self.seen[key] = found
        return found

    def _embed(self, encoder: Encoder, view: View) -> Network:
        train, test = (self._features(encoder, view, shards) for shards in (self.train, self.test))
        return Network(encoder, view, train, test)

    @torch.inference_mode()
    def _features(self, encoder: Encoder, view: View, shards: Shards) -> Features:
        encoder.to(self.device)
        embeddings, logits = [], []
        for part in self._parts(view, shards):
            features = encoder(to_batch(part, {"view": view}, self.device).inputs["view"])
            embeddings.append(features.embedding.float().cpu())
            if features.logits is not None:
                logits.append(features.logits.float().cpu())
        return Features(torch.cat(embeddings), (), torch.cat(logits) if logits else None)

    def _parts(self, view: View, shards: Shards) -> Iterable[SampleBatch]:
        """Every pair in order; small data sets are decoded once."""
        key = (repr(view), shards is self.test)
        if key not in self.held:
            found = sweep_parts(shards, {"view": view}, workers=self.config.workers)
            if len(shards) * math.prod(view.modality.shape) > HELD:
                return found
            self.held[key] = list(found)
        return self.held[key]

    def _describe(
        self,
        who: str,
        seen: Network,
        teacher: Network | None,
        model: Model | None = None,
        *,
        classes: Sequence[str] = (),
    ) -> None:
        """A row of the table: one more seed of `who`, whose logits, where it has any, are of `classes`."""
        say(f"{self.run.path}: measuring {who}")
        network = replace(seen, classes=classes)
        if teacher is not None:
            spaces = spaces_of(model, seen, teacher, self.taught[0] if self.taught else None)
            network = replace(network, spaces=spaces, teacher=(teacher.train, teacher.test))
        self.table.rows.setdefault(who, {})
        for key, evaluation in self._active.items():
            declared = {metric.name for metric in evaluation.metrics_in(self._heads)}
            network = replace(network, artefacts=Artefacts())
            for name, value in evaluation.measure(network, self._pairs).items():
                if name not in declared or not math.isfinite(value):
                    raise ValueError(f"metrics.{key} measured {name!r} of {who} as {value}; a metric must be declared "
                                     "and finite")  # fmt: skip
                self.table.add(who, name, value, network.artefacts.totals.get(name))
            given = network.artefacts
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

    def _few_labels(self, teacher: Network | None) -> None:
        """The few-label curves: whole encoders trained from the student and from scratch, and frozen ones probed."""
        assert self.config.few_labels
        learn, judge = self.labels
        for seed in range(self.config.seeds):
            rounds = {name: self.config.seeds // len(models) * len(models) for name, models in self.students.items()}
            mine = {  # whole rounds only, so that every student of a name counts alike
                name: models[seed % len(models)] for name, models in self.students.items() if seed < rounds[name]
            }
            blank = self._new(seed, 0)
            frozen = {f"{name}, frozen": self._see(model) for name, model in mine.items()}
            frozen["random weights, frozen"] = self._embed(blank, self.view)
            if teacher is not None:
                frozen["teacher, frozen"] = teacher
            for count in counts_there(self.config.few_labels, learn):
                say(f"{self.run.path}: seed {seed}, {'all' if count is None else count} labels a class")
                draws = range(1 if count is None else self.config.few_labels.draws)
                for who, seen in frozen.items():
                    right = torch.zeros(len(judge), dtype=torch.float64)
                    for draw in draws:
                        some = few_labels.pick_labelled(learn, count, seed, draw)
                        answer = probe.linear_probe(
                            seen.train.embedding[some], learn[some], seen.test.embedding, len(self.classes)
                        )
                        right += (answer == judge) / len(draws)
                    self._point(who, count, right)
                chosen = few_labels.pick_labelled(learn, count, seed)
                for who, encoder in self._starts(mine, seed).items():
                    self._tune(encoder, chosen, seed)
                    logits = self._features(encoder, self.view, self.test).logits
                    assert logits is not None
                    self._point(who, count, (logits.argmax(1) == judge).double())
                    if who == "scratch" and count is None:
                        seen = self._embed(encoder, self.view)
                        self._describe("scratch, all labels", seen, teacher, classes=self.classes)

    def _starts(self, students: dict[str, Model], seed: int) -> dict[str, Encoder]:
        """The whole encoders that are trained on few labels."""
        assert self.config.few_labels
        whole, classes = self.config.few_labels.whole, len(self.classes)
        tuned = students if whole == "all" else {}
        starts = {}
        for name, model in tuned.items():
            seed_everything(seed, "classifier")  # the same one whatever else is asked for
            starts[f"{name}, fine-tuned"] = model.card.build_from(model.encoder, classes)
        return starts if whole == "none" else {**starts, "scratch": self._new(seed, classes)}

    def _scratch_on(self, targets: Targets, teacher: Network | None) -> None:
        """The students' encoder from scratch, trained on the targets of all training pairs."""
        known = targets.values
        standardised = _standardised(known)
        for seed in range(self.config.seeds):
            encoder = self._new(seed, known.shape[1])
            self._tune(encoder, list(range(len(known))), seed, targets=standardised, loss=F.smooth_l1_loss)
            self._describe(f"scratch, trained on {targets.name}", self._embed(encoder, self.view), teacher)

    def _tune(
        self,
        encoder: Encoder,
        chosen: list[int],
        seed: int,
        *,
        targets: Tensor | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        """Trains a whole encoder on the chosen pairs' labels, or on other targets."""
        asked = self.config.few_labels or FewLabelsConfig()
        recipe = few_labels.Recipe(
            asked.steps, asked.least_steps, asked.epochs, asked.batch_size, asked.lr, asked.weight_decay
        )
        crop = Crop(**asdict(asked.crop))
        known = self.labels[0][chosen] if targets is None else targets
        seed_everything(seed, "tune")  # for dropout
        few_labels.train_on(
            encoder, self.view.modality, Chosen(self._signals, chosen), known, recipe,
            loss=loss, crop=crop, seed=seed, device=self.device,
        )  # fmt: skip

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

    @cached_property
    def _signals(self) -> Decoded:
        return Decoded(self.train, self.view)

    def _point(self, who: str, count: int | None, right: Float[Tensor, " pairs"]) -> None:
        """One more seed of a curve, from the share of right answers for each test pair."""
        judge, name = self.labels[1], "all" if count is None else str(count)
        totals = Totals.mean(right.masked_fill(judge < 0, math.nan))
        self.curves.add(who, name, totals(), totals)
        if self._pairs.uneven:
            balanced = Totals.balanced(right, judge, len(self.classes))
            self.balanced_curves.add(who, name, balanced(), balanced)

    def _save_examples(self, teacher: Network | None) -> None:
        """Test embeddings of the first student, in its space with the teacher, and what some queries retrieve there."""
        seen = self._see(self.first)
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


def _standardised(known: Float[Tensor, "pairs numbers"]) -> Float[Tensor, "pairs numbers"]:
    """Each number of a quantity less its mean, over its standard deviation; one that rounding alone moves becomes 0.

    The floor is relative to the number itself and not, as the probe's, to the mean spread of all: the numbers may have
    different units. What is standardised here are targets of the very pairs that are trained on, so none can explode.
    """
    spread, rounding = known.std(0), torch.finfo(known.dtype).eps * known.abs().amax(0)
    return torch.where(spread > rounding, (known - known.mean(0)) / spread, 0.0)
