"""The measurements behind `crossmodal evaluate`."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
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
from crossmodal.evaluation import diagnostics, few_labels, neighbours, probe, retrieval
from crossmodal.export import Model
from pipelines.config import ConfigError
from pipelines.evaluation.decoded import HELD, Chosen, Decoded
from pipelines.evaluation.diagnosis import diagnose_encoder
from pipelines.evaluation.subjects import Subjects
from pipelines.evaluation.warnings import counts_there, shortfalls
from pipelines.runs.console import say
from pipelines.runs.folder import RunFolder
from pipelines.schemas.evaluate import FewLabelsConfig
from pipelines.training.loop import seed_everything

Figures = dict[str, list[float]]  # one number a seed


@dataclass(frozen=True)
class NetworkFeatures:
    """A network's features of both parts of the data, on the CPU; and the network with what it sees."""

    train: Features
    test: Features
    encoder: Encoder
    view: View


@dataclass(frozen=True)
class Evaluation(Subjects):
    """All figures of one evaluate run."""

    run: RunFolder
    rows: dict[str, Figures] = field(default_factory=dict)  # table: who -> figure -> one number a seed
    curves: dict[str, Figures] = field(default_factory=dict)  # who -> labels a class -> one number a seed
    held: dict[tuple[str, bool], list[SampleBatch]] = field(
        default_factory=dict
    )  # what a view gives of small data sets
    seen: dict[int, NetworkFeatures] = field(default_factory=dict)  # what students gave, by the id of their encoder

    def measure(self) -> dict[str, Any]:
        """Everything the config asks for, as plain content."""
        began = time.monotonic()
        self._check()
        self.run.begin()
        notes = [*shortfalls(self.config, self.parts, self.labels)]
        for line in notes:
            say(f"{self.run.path}: {line}")
        teacher = None
        if self.teacher is not None:
            teacher = self._embed(self.teacher.encoder, self.teacher_view)
            self._describe("teacher", teacher, None, classes=self.teacher.classes)
        for name, models in self.students.items():
            for model in models:
                self._describe(name, self._see(model), teacher, model, classes=model.card.classes)
        for seed in range(self.config.seeds):
            self._describe("random weights", self._embed(self._new(seed, 0), self.view), teacher)
        if self.classes and counts_there(self.config.few_labels, self.labels[0]):
            self._few_labels(teacher)
        if self.config.quantity:
            self._scratch_on_quantity(self.config.quantity.fact, teacher)
        self._save_examples(teacher)
        return {
            "figures": {
                "chance": self._chance(),
                "table": {who: _summaries(figures) for who, figures in self.rows.items()},
                "few_labels": {who: _summaries(curve) for who, curve in self.curves.items()},
                "seeds": self.config.seeds,
                "train_pairs": len(self.train),
                "test_pairs": len(self.test),
                "labelled": [int((labels >= 0).sum()) for labels in self.labels] if self.classes else None,
                "copies": self.copies[0],
                "untold": self.copies[1],
                "classes": self.classes,
                "notes": notes,
                "quantity": asdict(self.config.quantity) if self.config.quantity else None,
                "seconds": round(time.monotonic() - began, 1),
            }
        }

    @cached_property
    def device(self) -> torch.device:
        """The GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _check(self) -> None:
        """All that can be wrong is known before the first figure."""
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
        if self.config.quantity:
            assert len(self._quantities) == 2
        assert self.view and (self.taught is None or self.teacher)
        assert self.copies[0] < len(self.test)

    def _new(self, seed: int, classes: int) -> Encoder:
        """The students' encoder at new weights."""
        torch.manual_seed(seed)
        return self.first.card.build(classes).eval()

    def _see(self, model: Model) -> NetworkFeatures:
        """A student's features, computed once as long as `HELD` numbers hold all of them."""
        key = id(model.encoder)
        if key in self.seen:
            return self.seen[key]
        found = self._embed(model.encoder, self.view)
        kept = [part.embedding.numel() for seen in (found, *self.seen.values()) for part in (seen.train, seen.test)]
        if sum(kept) <= HELD:
            self.seen[key] = found
        return found

    def _embed(self, encoder: Encoder, view: View) -> NetworkFeatures:
        train, test = (self._features(encoder, view, shards) for shards in (self.train, self.test))
        return NetworkFeatures(train, test, encoder, view)

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
        seen: NetworkFeatures,
        teacher: NetworkFeatures | None,
        model: Model | None = None,
        *,
        classes: Sequence[str] = (),
    ) -> None:
        """A row of the table: one more seed of `who`, whose logits, where it has any, are of `classes`."""
        say(f"{self.run.path}: measuring {who}")
        row = self.rows.setdefault(who, {})
        train, test = seen.train.embedding, seen.test.embedding
        if self.classes:
            learn, judge = self.labels
            known = learn >= 0
            answers = {
                "knn": neighbours.classify(train[known], learn[known], test, neighbours=self.config.neighbours),
                "probe": probe.linear_probe(train[known], learn[known], test, len(self.classes)),
            }
            if seen.test.logits is not None and [*classes] == self.classes:
                answers["classifier"] = seen.test.logits.argmax(1)
            for name, answer in answers.items():
                row.setdefault(name, []).append(_accuracy(answer, judge))
        if self.config.diagnostics:
            for name, figure in self._diagnose(seen).items():
                row.setdefault(name, []).append(figure)
        if self.config.quantity:
            row.setdefault("quantity", []).append(self._quantity_error(train, test))
        if teacher is not None:
            spaces = {"map": _linear_map(seen, teacher)}
            if model is not None and (shared := self._in_heads(model, seen, teacher)) is not None:
                spaces["heads"] = shared
            for space, (ours, theirs) in spaces.items():
                for way, pair in {"to_teacher": (ours, theirs), "to_student": (theirs, ours)}.items():
                    for k, share in retrieval.recalls(*pair, at=self.config.retrieve_at).items():
                        row.setdefault(f"{space}.{way}.R@{k}", []).append(share)

    def _diagnose(self, seen: NetworkFeatures) -> dict[str, float]:
        asked, (learn, judge) = self.config.diagnostics, self.labels
        assert asked is not None
        count = asked.per_class if self.classes else 10 * asked.per_class
        picked = few_labels.pick_labelled(judge if self.classes else torch.zeros_like(judge), count, 0)
        crop = Crop(**asdict(asked.crop))
        figures = diagnose_encoder(seen.encoder, seen.view, self.test, picked, crop=crop, device=self.device)
        if self.classes:
            rows, known = (seen.train.embedding[learn >= 0], seen.test.embedding[judge >= 0]), judge[judge >= 0]
            figures["best_knn"] = diagnostics.best_neighbours(rows[0], learn[learn >= 0], rows[1], known)
        return figures

    def _in_heads(self, model: Model, seen: NetworkFeatures, teacher: NetworkFeatures) -> tuple[Tensor, Tensor] | None:
        """Both sides of the test pairs in the space the objective trained, if it has one."""
        with torch.inference_mode():
            for name, head in model.heads.items():
                if self.taught is None or model.card.heads[name].teacher != self.taught[0]:
                    continue
                if (found := head.project(seen.test, teacher.test)) is not None:
                    return found
        return None

    @cached_property
    def _quantities(self) -> tuple[Tensor, Tensor]:
        quantity = self.config.quantity
        assert quantity is not None
        found = []
        for shards in (self.train, self.test):
            rows = [_read_quantity(shards, index, quantity.fact, quantity.columns) for index in range(len(shards))]
            found.append(torch.tensor(rows, dtype=torch.float32))
        return found[0], found[1]

    def _quantity_error(self, train: Tensor, test: Tensor) -> float:
        """Mean distance between the truth and the neighbours' mean, in the quantity's unit."""
        assert self.config.quantity is not None
        known, truth = self._quantities
        answer = neighbours.regress(train, known, test, neighbours=self.config.quantity.neighbours)
        return (answer - truth).norm(dim=1).mean().item()

    def _chance(self) -> dict[str, float]:
        found = {}
        if self.classes:
            judge = self.labels[1][self.labels[1] >= 0]
            found["accuracy"] = judge.bincount().max().item() / len(judge)
        if self.config.quantity:
            known, truth = self._quantities
            found["quantity"] = (known.mean(0) - truth).norm(dim=1).mean().item()
        return found | {f"R@{k}": min(1.0, k / len(self.test)) for k in self.config.retrieve_at}

    def _few_labels(self, teacher: NetworkFeatures | None) -> None:
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
                chosen = few_labels.pick_labelled(learn, count, seed)
                for who, seen in frozen.items():
                    answer = probe.linear_probe(
                        seen.train.embedding[chosen], learn[chosen], seen.test.embedding, len(self.classes)
                    )
                    self._point(who, count, _accuracy(answer, judge))
                for who, encoder in self._starts(mine, seed).items():
                    self._tune(encoder, chosen, seed)
                    logits = self._features(encoder, self.view, self.test).logits
                    assert logits is not None
                    self._point(who, count, _accuracy(logits.argmax(1), judge))
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

    def _scratch_on_quantity(self, fact: str, teacher: NetworkFeatures | None) -> None:
        """The same encoder from scratch, trained on the quantity itself of all training pairs."""
        known = self._quantities[0]
        targets = _standardised(known)
        for seed in range(self.config.seeds):
            encoder = self._new(seed, known.shape[1])
            self._tune(encoder, list(range(len(known))), seed, targets=targets, loss=F.smooth_l1_loss)
            self._describe(f"scratch, trained on {fact}", self._embed(encoder, self.view), teacher)

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

    @cached_property
    def _signals(self) -> Decoded:
        return Decoded(self.train, self.view)

    def _point(self, who: str, count: int | None, accuracy: float) -> None:
        self.curves.setdefault(who, {}).setdefault("all" if count is None else str(count), []).append(accuracy)

    def _save_examples(self, teacher: NetworkFeatures | None) -> None:
        """Test embeddings of the first student, in its space with the teacher, and what some queries retrieve there."""
        seen = self._see(self.first)
        examples = {"student": seen.test.embedding, "label": self.labels[1]}
        if teacher is not None:
            ours, theirs = self._in_heads(self.first, seen, teacher) or _linear_map(seen, teacher)
            queries = torch.linspace(0, len(ours) - 1, min(8, len(ours))).long()
            found = retrieval.nearest(ours[queries], theirs, min(5, len(theirs)))
            examples |= {"student": ours, "teacher": theirs, "queries": queries, "found": found}
        plain = {name: tensor.contiguous() for name, tensor in examples.items()}
        write(self.run.path / "examples.safetensors", save(plain))


def _standardised(known: Float[Tensor, "pairs numbers"]) -> Float[Tensor, "pairs numbers"]:
    """Each number of a quantity less its mean, over its standard deviation; one that rounding alone moves becomes 0.

    The floor is relative to the number itself and not, as the probe's, to the mean spread of all: the numbers may have
    different units. What is standardised here are targets of the very pairs that are trained on, so none can explode.
    """
    spread, rounding = known.std(0), torch.finfo(known.dtype).eps * known.abs().amax(0)
    return torch.where(spread > rounding, (known - known.mean(0)) / spread, 0.0)


def _linear_map(seen: NetworkFeatures, teacher: NetworkFeatures) -> tuple[Tensor, Tensor]:
    """Both sides of the test pairs in the teacher's centred space, by a ridge map fitted on the training pairs."""
    centre = teacher.train.embedding.mean(0)
    weights = retrieval.ridge(seen.train.embedding, teacher.train.embedding - centre)
    return retrieval.apply_map(seen.test.embedding, weights), teacher.test.embedding - centre


def _accuracy(answer: Tensor, truth: Tensor) -> float:
    labelled = truth >= 0
    return (answer[labelled] == truth[labelled]).double().mean().item()


def _summaries(figures: Figures) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation of every figure, with the numbers themselves."""
    return {
        name: {
            "mean": round(statistics.mean(runs), 5),
            "std": round(statistics.stdev(runs), 5) if len(runs) > 1 else None,
            "runs": [round(value, 5) for value in runs],
        }
        for name, runs in figures.items()
    }


def _read_quantity(shards: Shards, index: int, fact: str, columns: Sequence[int]) -> list[float]:
    """The numbers of a pair's fact that are asked for."""
    facts, (path, row) = shards.facts(index), shards.locate(index)
    pair = f"pair {row.key!r} of {path}"
    if fact not in facts:
        raise ConfigError([f"quantity.fact: {pair} has no {fact!r}; it has {', '.join(facts)}"])
    found: dict[int, Any] = dict(enumerate(facts[fact])) if isinstance(facts[fact], list) else {}
    numbers: list[Any] = [found.get(column) for column in columns]
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        asked = ", ".join(map(str, columns))
        raise ConfigError(
            [f"quantity.columns: {pair} must have finite numbers in {fact!r} at {asked}, got {str(facts[fact])[:200]}"]
        )
    return numbers
