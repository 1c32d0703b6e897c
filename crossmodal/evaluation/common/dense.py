"""Evaluations of maps: decoders that few labelled pictures train on frozen maps, and encoders fine-tuned with them."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal.data.reader import open_view, sweep_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, Picture, View
from crossmodal.encoders import Encoder, Spec
from crossmodal.evaluation import Metric, Network, Pairs, Point
from crossmodal.evaluation.common.maps import Maps, Recipe, Signals, batch_of, choose, descend, pieces, seeded
from crossmodal.evaluation.common.pictures import main_components, to_bytes
from crossmodal.evaluation.common.tasks import Quality, Score, Task
from crossmodal.modules.decoders import Decoder, build_decoder
from modalities.common.random import generator

STRIDE = 8  # by default, maps of at least this stride are used
SHOWN = 6  # test pairs whose answers the report shows


class Dense:
    """The options and the work of evaluations of maps; a base of their entries, before `Evaluation`.

    An entry declares the options itself, so that the catalogue lists them, and calls `check` in `__post_init__`.
    """

    suffix: str
    height: int | None
    width: int | None
    pictures: tuple[int | None, ...]
    draws: int
    maps: tuple[int, ...] | None
    teacher_maps: tuple[int, ...] | None
    decoder: str
    decoder_width: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    fine_tuned: tuple[int | None, ...]
    fine_tuned_steps: int
    fine_tuned_batch_size: int
    fine_tuned_lr: float
    fine_tuned_weight_decay: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float

    @abstractmethod
    def qualities(self) -> tuple[Quality, ...]:
        """The measures of the answers; the first is the main one."""

    @abstractmethod
    def task(self, pairs: Pairs) -> Task:
        """The quantity that decoders predict.

        Raises:
            ValueError: the pairs do not have it.
        """

    @abstractmethod
    def usable(self, pairs: Pairs, shards: Shards) -> list[int]:
        """The pairs of a part that have a truth."""

    def check(self) -> None:
        """Checks the options.

        Raises:
            ValueError: an option is out of its range.
        """
        if (self.height is None) != (self.width is None):
            raise ValueError(f"give both height and width, or none, got {self.height} and {self.width}")
        whole = ("height", "width", "draws", "decoder_width", "steps", "batch_size", "fine_tuned_steps",
                 "fine_tuned_batch_size")  # fmt: skip
        _refuse(self, whole, "at least 1", lambda value: value is None or value >= 1)
        _refuse(self, ("lr", "fine_tuned_lr"), "above 0 and finite", lambda value: 0 < value < math.inf)
        decays = ("weight_decay", "fine_tuned_weight_decay")
        _refuse(self, decays, "at least 0 and finite", lambda value: 0 <= value < math.inf)
        counts = "different numbers of at least 1, or null for all"
        _refuse(self, ("pictures", "fine_tuned"), counts, lambda value: _are_different(value, 1))
        stages = "one or more different stages from 0"
        _refuse(
            self, ("maps", "teacher_maps"), stages, lambda value: value is None or (value and _are_different(value, 0))
        )
        if not self.pictures:
            raise ValueError("pictures must name at least one number of pictures, or null for all")
        self._crop()  # which refuses what is out of range

    def _crop(self) -> Crop:
        return Crop(self.scale, self.ratio, self.flip)

    def _frozen(self) -> "Recipe":
        return Recipe(self.steps, self.batch_size, self.lr, self.weight_decay)

    def _tuned(self) -> "Recipe":
        return Recipe(
            self.fine_tuned_steps, self.fine_tuned_batch_size, self.fine_tuned_lr, self.fine_tuned_weight_decay
        )

    def _columns(self) -> Iterator[tuple[str, int | None, str]]:
        """How encoders are used, the number of pictures, and the end of the names of metrics."""
        for use, counts in (("frozen", self.pictures), ("fine-tuned", self.fine_tuned)):
            for count in counts:
                yield use, count, f"{use}@{'all' if count is None else count}"

    def metrics(self) -> tuple[Metric, ...]:
        """Every quality, of every use and number of pictures."""
        return tuple(
            Metric(
                f"{quality.name}.{column}",
                f"{quality.heading}, {_worded(use, count)}",
                quality.higher_is_better,
                quality.percent,
                ("student",) if use == "fine-tuned" else (),
                Point(quality.heading, "labelled pictures", count, use),
            )
            for quality in self.qualities()
            for use, count, column in self._columns()
        )

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """The values of the constant answer whose loss on the test pairs is least."""
        task = self._checked_task(pairs)
        total, weight = torch.zeros(task.outputs, dtype=torch.float64), 0.0
        for _, truth in self._truths(task, pairs):
            target, known = task.targets(truth)
            total += target.double().sum((0, 2, 3))
            weight += known.sum().item()
        if not weight:
            raise ValueError(
                f"no pixel of the {len(pairs.test)} test pairs of {pairs.test.folder} has a value to judge by"
            )
        constant, score = (total / weight).float(), task.score()
        for _, truth in self._truths(task, pairs):
            score.add(constant[None, :, None, None].expand(len(truth), -1, *truth.shape[2:]), truth)
        values = score.values()
        return {metric.name: values[metric.name.rpartition(".")[0]] for metric in self.metrics()}

    def notes(self, pairs: Pairs) -> Iterator[str]:
        """Pairs without a truth."""
        for shards in (pairs.train, pairs.test):
            if (count := len(self.usable(pairs, shards))) < len(shards):
                yield f"only {count} of the {len(shards)} pairs of {shards.folder} have a truth for every place"

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Trains decoders on the training pairs, and judges them by all test pairs."""
        task = self.task(pairs)
        stages = self._stages(network.kind, network.encoder.spec, network.view)
        used = self.usable(pairs, pairs.train)
        picks = {
            (use, count, column): [
                choose(pairs.train, used, count, draw)
                for draw in range(self.draws if use == "frozen" and count is not None and count < len(used) else 1)
            ]
            for use, count, column in self._columns()
            if use == "frozen" or network.kind != "teacher"
        }
        needed = sorted({index for lists in picks.values() for indices in lists for index in indices})
        maps = Maps(network.encoder, network.view, stages, task, pairs)
        maps.hold(needed)
        judged: dict[str, list[Judged]] = {}
        words = {column: _worded(use, count) for use, count, column in picks}
        for (use, _, column), lists in picks.items():
            for draw, indices in enumerate(lists):
                if use == "frozen":
                    decoder = self._fit(maps, indices, draw)
                    judged.setdefault(column, []).append(Judged(None, decoder, task.score()))
                else:
                    encoder, decoder = self._fine_tune(network, maps, indices, draw)
                    judged.setdefault(column, []).append(Judged(encoder, decoder, task.score()))
        self._judge(network, maps, {words[column]: scores for column, scores in judged.items()}, pairs)
        found = {column: [each.score.values() for each in scores] for column, scores in judged.items()}
        return {
            f"{name}.{column}": sum(each[name] for each in values) / len(values)
            for column, values in found.items()
            for name in values[0]
        }

    def truth_view(self, pairs: Pairs, shards: Shards, modality: str) -> View:
        """The view of the truth: of the students' sides, unless the config gives others, and of their `fit`.

        Raises:
            ValueError: the shards lack its field.
        """
        seen = pairs.subjects["student"].view.modality
        if seen.plane != "picture":
            raise ValueError(f"maps are compared with pictures, but the students see {seen.field}")
        sides = (self.height, self.width) if self.height is not None else (seen.shape[1], seen.shape[2])
        return open_view(shards, modality, height=sides[0], width=sides[1], fit=seen.fit)

    def _checked_task(self, pairs: Pairs) -> Task:
        """The task, after everything that can be refused before a network is measured.

        Raises:
            ValueError: something does not fit.
        """
        task = self.task(pairs)
        for kind, subject in pairs.subjects.items():
            refuse_other_region(kind, subject.view, task.view)
            self._stages(kind, subject.spec, subject.view)
        parts = ("training", pairs.train), ("test", pairs.test)
        used = {name: self.usable(pairs, shards) for name, shards in parts}
        for name, shards in parts:
            if not used[name]:
                raise ValueError(f"no {name} pair of {shards.folder} has a value to learn from or judge by")
        for key in ("pictures", "fine_tuned"):
            most = max((count for count in getattr(self, key) if count is not None), default=0)
            if most > len(used["training"]):
                raise ValueError(f"{key} asks for {most} labelled training pairs, but {pairs.train.folder} has "
                                 f"{len(used['training'])}")  # fmt: skip
        return task

    def _stages(self, kind: str, spec: Spec, view: View) -> list[int]:
        """The stages whose maps are used.

        Raises:
            ValueError: one does not exist.
        """
        name, who = ("maps", "the students") if kind == "student" else ("teacher_maps", "the teacher")
        asked = self.maps if kind == "student" else self.teacher_maps
        if not spec.maps:
            raise ValueError(f"{who} must give maps to be evaluated place by place, but their encoder gives none")
        if asked is not None and max(asked) >= len(spec.maps):
            raise ValueError(f"{name} must be stages of {who} from 0 to {len(spec.maps) - 1}, got {max(asked)}")
        return [*asked] if asked is not None else usual_stages(spec, view.modality.shape)

    def _truths(self, task: Task, pairs: Pairs) -> Iterator[tuple[Tensor, Tensor]]:
        """The indices and truth of all test pairs."""
        used = self.usable(pairs, pairs.test)
        for part in sweep_parts(
            pairs.test, {"t": task.view}, batch_size=batch_of(task), workers=pairs.workers, indices=used
        ):
            yield part.index, task.prepare(part.adapted["t"])

    def _decoder(self, maps: "Maps", indices: Sequence[int], draw: int) -> Decoder:
        outputs = maps.task.outputs
        decoder = seeded(draw, lambda: build_decoder(self.decoder, maps.sizes, outputs, width=self.decoder_width))
        decoder.measure(maps.read(piece).maps for piece in pieces(indices, maps.batch))
        if maps.task.starts_at_mean:
            decoder.bias.data.copy_(maps.mean_target(indices))
        return decoder.to(maps.pairs.device)

    def _fit(self, maps: "Maps", indices: Sequence[int], draw: int) -> Decoder:
        """A decoder trained on frozen maps."""
        decoder = self._decoder(maps, indices, draw)

        def loss(step: int, chosen: list[int]) -> Tensor:
            seen = maps.read(chosen)
            return maps.loss(decoder(seen.maps), seen.target, seen.weight)

        seeded(draw, lambda: descend([decoder], self._frozen(), indices, loss, draw=draw))
        return decoder.eval()

    def _fine_tune(self, network: Network, maps: "Maps", indices: Sequence[int], draw: int) -> tuple[Encoder, Decoder]:
        """A copy of the encoder trained together with a decoder, on random crops."""
        decoder = self._decoder(maps, indices, draw)
        encoder = copy.deepcopy(network.encoder).requires_grad_(True)
        signals = Signals(maps.pairs.train, network.view, maps.task.view)
        modality, truth, crop, device = network.view.modality, maps.task.view.modality, self._crop(), maps.pairs.device

        def loss(step: int, chosen: list[int]) -> Tensor:
            adapted, draws, truths = [], [], []
            for place, index in enumerate(chosen):
                random, (signal, labels) = generator(draw, "dense", step, place), signals[index]
                box = crop.draw(random)
                adapted.append(modality.adapt(signal, box))
                draws.append(modality.draw(random))
                truths.append(maps.task.prepare(truth.adapt(labels, box)[None]))
            batch = modality.augment(torch.stack(adapted).to(device), torch.stack(draws).to(device))
            target, weight = maps.targets(torch.cat(truths).to(device))
            features = encoder(modality.normalise(batch))
            return maps.loss(decoder([features.maps[stage] for stage in maps.stages]), target, weight)

        encoder.train()
        seeded(draw, lambda: descend([encoder, decoder], self._tuned(), indices, loss, draw=draw))
        return encoder.eval(), decoder.eval()

    @torch.inference_mode()
    def _judge(self, network: Network, maps: "Maps", judged: dict[str, list["Judged"]], pairs: Pairs) -> None:
        """Adds every decoder's answers to the test pairs to its score, and hands over what the report shows of them."""
        task, used = maps.task, self.usable(pairs, pairs.test)
        shown = {used[int(place)] for place in torch.linspace(0, len(used) - 1, min(SHOWN, len(used))).long()}
        views, given = {"v": network.view, "t": task.view}, network.artefacts
        context, pictures = dict[str, list[Tensor]](), dict[str, list[Tensor]]()
        samples: list[list[Tensor]] = []
        for part in sweep_parts(pairs.test, views, batch_size=maps.batch, workers=pairs.workers, indices=used):
            truth = task.prepare(part.adapted["t"]).to(pairs.device)
            inputs = network.view.modality.normalise(part.adapted["v"].to(pairs.device))
            frozen = maps.forward(network.encoder, inputs)
            rows = [row for row, index in enumerate(part.index.tolist()) if index in shown]
            samples += [[each[row].float().cpu() for each in frozen] for row in rows]
            for row in rows:
                context.setdefault("input", []).append(network.view.modality.picture(part.adapted["v"][row]))
                context.setdefault("truth", []).append(task.show(truth[row].cpu()))
            for title, scores in judged.items():
                for number, each in enumerate(scores):
                    seen = frozen if each.encoder is None else maps.forward(each.encoder, inputs)
                    answer = F.interpolate(each.decoder(seen), truth.shape[2:], mode="bilinear")
                    each.score.add(answer, truth)
                    if not number:
                        pictures.setdefault(title, []).extend(task.picture(answer[row].cpu()) for row in rows)
        given.components["first three principal components of the maps"] = main_components(samples)
        given.context |= {title: to_bytes(torch.stack(rows)) for title, rows in context.items()}
        given.pictures |= {title: to_bytes(torch.stack(rows)) for title, rows in pictures.items()}
        given.legend |= task.legend()
        for title, scores in judged.items():
            parts = [each.score.parts() for each in scores]
            labels = dict.fromkeys(label for each in parts for label in each)
            known = {label: [each[label] for each in parts if label in each] for label in labels}
            if known:
                means = {label: sum(values) / len(values) for label, values in known.items()}
                given.values[f"{self.qualities()[0].heading} by class, {title}"] = means


@dataclass(frozen=True)
class Judged:
    """A trained decoder with its score; its own encoder if that was fine-tuned."""

    encoder: Encoder | None
    decoder: Decoder
    score: Score


def pairs_with(shards: Shards, name: str) -> list[int]:
    """The pairs that do not lack a field."""
    member = shards.member(name)
    return [index for index in range(len(shards)) if not shards.lacks(index, member)]


def usual_stages(spec: Spec, shape: tuple[int, ...]) -> list[int]:
    """The last stage at each grid of stride `STRIDE` or more; if there is none, the last stage at the coarsest grid."""
    last = {size[1:]: stage for stage, size in enumerate(spec.maps)}
    coarse = [stage for grid, stage in last.items() if math.prod(grid) * STRIDE**2 <= math.prod(shape[1:])]
    return sorted(coarse) or [last[min(last, key=math.prod)]]


def refuse_other_region(kind: str, view: View, truth: View) -> None:
    """Refuses a network whose view does not show the places of the truth.

    Raises:
        ValueError: it is no view of pictures, or one of another `fit` or other proportions.
    """
    who = "students" if kind == "student" else "teacher" if kind == "teacher" else "inflated teacher"
    modality, other = view.modality, truth.modality
    if modality.plane != "picture":
        raise ValueError(f"maps are compared with pictures, but the {who} sees {modality.field}")
    (height, width), (tall, wide) = modality.shape[1:], other.shape[1:]
    even = modality.fit == "stretch" or Picture(width, height).fits(wide, tall)
    if modality.fit != other.fit or not even:
        raise ValueError(
            f"the view of the {who} ({width} x {height}, fit: {modality.fit}) and the {other.field} ({wide} x {tall}, "
            f"fit: {other.fit}) show different parts of a picture; give them the same width : height and fit"
        )


def _worded(use: str, count: int | None) -> str:
    return f"{use}, {'all' if count is None else count} pictures"


def _refuse(options: object, names: Sequence[str], words: str, fits: Callable[[Any], Any]) -> None:
    for name in names:
        if not fits(value := getattr(options, name)):
            raise ValueError(f"{name} must be {words}, got {[*value] if isinstance(value, tuple) else value}")


def _are_different(numbers: Sequence[int | None], least: int) -> bool:
    return len({*numbers}) == len(numbers) and all(number is None or number >= least for number in numbers)
