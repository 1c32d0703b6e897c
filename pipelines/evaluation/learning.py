"""Learning from few labels: probes of frozen embeddings, and whole encoders trained from students and from scratch.

Every probe and every training is a job of its own, which depends on its seed and number of labels alone, so processes
share the jobs and the figures are those of one process.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crossmodal.data.views import Crop
from crossmodal.encoders import Encoder
from crossmodal.evaluation import Network, Targets
from crossmodal.metrics import few_labels, probe
from crossmodal.models import Model
from pipelines.evaluation.decoded import Chosen, Decoded
from pipelines.evaluation.embedding import Embeddings
from pipelines.evaluation.results import Row
from pipelines.evaluation.warnings import counts_there
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.schemas.evaluate import FewLabelsConfig
from pipelines.training.loop import seed_everything

SCRATCH = "scratch"
Measure = Callable[[str, Network], Row]  # the figures of a network, by the name of its row


@dataclass(frozen=True)
class Point:
    """One seed of a point of a learning curve."""

    who: str
    count: int | None  # labels a class; None: all
    right: Float[Tensor, " pairs"]  # the share of right answers for each test pair
    row: Row | None = None  # all figures of the network, where the table has it


@dataclass(frozen=True)
class Learning:
    """The few-label curves and the baselines that are trained from scratch."""

    seen: Embeddings
    name: str  # of the run, for what is printed

    @property
    def config(self) -> FewLabelsConfig:
        """How it is learnt; the defaults where no curves are asked for."""
        return self.seen.config.few_labels or FewLabelsConfig()

    @cached_property
    def _counts(self) -> list[int | None]:
        return counts_there(self.config, self.seen.labels[0])

    def frozen(self, teacher: Network | None) -> Iterator[Point]:
        """The probes of frozen embeddings, by seed, number of labels and network."""
        for seed in range(self.seen.config.seeds):
            say(f"{self.name}: seed {seed}, probes of frozen embeddings")
            networks = {f"{name}, frozen": self.seen.see(model) for name, model in self._students(seed).items()}
            networks["random weights, frozen"] = self.seen.embed(self.seen.new(seed, 0), self.seen.view)
            if teacher is not None:
                networks["teacher, frozen"] = teacher
            jobs = [partial(self._probe, who, network, count, seed)
                    for count in self._counts for who, network in networks.items()]  # fmt: skip
            yield from distributed.deal(jobs)

    def _probe(self, who: str, network: Network, count: int | None, seed: int) -> Point:
        learn, judge = self.seen.labels
        draws = range(1 if count is None else self.config.draws)
        right = torch.zeros(len(judge), dtype=torch.float64)
        for draw in draws:
            train, labels = network.train.embedding, learn
            if count is not None or (learn < 0).any():  # else a copy would take as much memory again
                some = few_labels.pick_labelled(learn, count, seed, draw)
                train, labels = train[some], learn[some]
            answer = probe.linear_probe(
                train, labels, network.test.embedding, len(self.seen.classes), device=self.seen.device
            )
            right += (answer == judge) / len(draws)
        return Point(who, count, right)

    def whole(self, measure: Measure) -> Iterator[Point]:
        """The trained encoders, by seed, number of labels and start; `measure` measures scratch with all labels."""
        seeds = range(self.seen.config.seeds)
        starts = {seed: [*self._starts(seed)] for seed in seeds}
        # neighbours in this order take as long as one another, so that the processes have equal shares
        jobs = {(seed, count, who): partial(self._learn, who, count, seed, measure)
                for count in self._counts for seed in seeds for who in starts[seed]}  # fmt: skip
        found = dict(zip(jobs, distributed.deal([*jobs.values()]), strict=True))
        for seed in seeds:
            for count in self._counts:
                yield from (found[seed, count, who] for who in starts[seed])

    def _learn(self, who: str, count: int | None, seed: int, measure: Measure) -> Point:
        say(f"{self.name}: seed {seed}, {who}, {'all labels' if count is None else f'labels a class: {count}'}")
        encoder = self._starts(seed)[who]()
        self.tune(encoder, few_labels.pick_labelled(self.seen.labels[0], count, seed), seed)
        if who == SCRATCH and count is None:
            network = self.seen.embed(encoder, self.seen.view, alone=True)
            row, logits = measure("scratch, all labels", network), network.test.logits
        else:
            row, logits = None, self.seen.features(encoder, self.seen.view, self.seen.test, alone=True).logits
        assert logits is not None
        return Point(who, count, (logits.argmax(1) == self.seen.labels[1]).double(), row)

    def on_targets(self, targets: Targets, measure: Measure) -> list[Row]:
        """The students' encoder from scratch, trained on the targets of all training pairs, for every seed."""
        known = targets.values
        standardised = _standardised(known)

        def learn(seed: int) -> Row:
            encoder = self.seen.new(seed, known.shape[1])
            self.tune(encoder, list(range(len(known))), seed, targets=standardised, loss=F.smooth_l1_loss)
            network = self.seen.embed(encoder, self.seen.view, alone=True)
            return measure(f"scratch, trained on {targets.name}", network)

        return distributed.deal([partial(learn, seed) for seed in range(self.seen.config.seeds)])

    def tune(
        self,
        encoder: Encoder,
        chosen: list[int],
        seed: int,
        *,
        targets: Tensor | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        """Trains a whole encoder on the chosen pairs' labels, or on other targets."""
        asked = self.config
        recipe = few_labels.Recipe(
            asked.steps, asked.least_steps, asked.epochs, asked.batch_size, asked.lr, asked.weight_decay
        )
        crop = Crop(**asdict(asked.crop))
        known = self.seen.labels[0][chosen] if targets is None else targets
        seed_everything(seed, "tune")  # for dropout
        few_labels.train_on(
            encoder, self.seen.view.modality, Chosen(self._signals, chosen), known, recipe,
            loss=loss, crop=crop, seed=seed, device=self.seen.device,
        )  # fmt: skip

    def _students(self, seed: int) -> dict[str, Model]:
        """The student of each name whose turn it is; whole rounds only, so that all of a name count alike."""
        seeds = self.seen.config.seeds
        return {name: models[seed % len(models)] for name, models in self.seen.students.items()
                if seed < seeds // len(models) * len(models)}  # fmt: skip

    def _starts(self, seed: int) -> dict[str, Callable[[], Encoder]]:
        """The whole encoders that are trained on few labels, by name: functions that build them."""
        whole, classes = self.config.whole, len(self.seen.classes)

        def with_classifier(model: Model) -> Encoder:
            seed_everything(seed, "classifier")  # the same one whatever else is asked for
            return model.card.build_from(model.encoder, classes)

        tuned = self._students(seed).items() if whole == "all" else ()
        starts: dict[str, Callable[[], Encoder]] = {
            f"{name}, fine-tuned": partial(with_classifier, model) for name, model in tuned
        }
        return starts if whole == "none" else {**starts, SCRATCH: partial(self.seen.new, seed, classes)}

    @cached_property
    def _signals(self) -> Decoded:
        return Decoded(self.seen.train, self.seen.view)


def _standardised(known: Float[Tensor, "pairs numbers"]) -> Float[Tensor, "pairs numbers"]:
    """Each number of a quantity less its mean, over its standard deviation; one that rounding alone moves becomes 0.

    The floor is relative to the number itself and not, as the probe's, to the mean spread of all: the numbers may have
    different units. What is standardised here are targets of the very pairs that are trained on, so none can explode.
    """
    spread, rounding = known.std(0), torch.finfo(known.dtype).eps * known.abs().amax(0)
    return torch.where(spread > rounding, (known - known.mean(0)) / spread, 0.0)
