"""The training loop of every pipeline that minimises objectives."""

import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from crossmodal import checkpoint
from crossmodal.contrast.pool import Pool
from crossmodal.data.features import FeatureShards
from crossmodal.data.manifest import ShardError
from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, SampleBatch, to_batch, train_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.distributed import gather
from crossmodal.encoders import Encoder
from crossmodal.modules.base import Losses, TrainingModule, unreached, why_not_alone
from crossmodal.modules.recompute import recompute_blocks
from crossmodal.objectives import Batch
from modalities.common.random import generator
from pipelines.config import ConfigError, at
from pipelines.config.errors import DivergedError, RunError
from pipelines.config.trials import has_trials
from pipelines.runs import distributed
from pipelines.runs.console import progress_bar, say, warn
from pipelines.runs.folder import RunFolder
from pipelines.schemas.common import TrainConfig
from pipelines.training.compilation import compile_networks
from pipelines.training.launcher import is_sharded
from pipelines.training.memory import forget_peak, peak_mb
from pipelines.training.optimiser import Average, build_optimiser, rate
from pipelines.training.precision import refuse_unset_gradients
from pipelines.training.progress import MetricAccumulator, Progress
from pipelines.training.sharding import (
    accumulating,
    local,
    outline,
    shard,
    share,
    unreached_backward,
    unshard,
)
from pipelines.training.signals import Signals
from pipelines.training.state import TrainingState

CALIBRATION_PAIRS = 1024  # most training pairs whose teacher features are measured before training
TELL_SECONDS = 60.0  # between lines for the user


def seed_everything(*address: int | str) -> int:
    """Seeds torch's global generators from an address; gives the seed."""
    seed = generator(*address).initial_seed() % 2**63
    torch.manual_seed(seed)
    return seed


@dataclass
class Training:
    """One training phase of a run.

    The pipeline gives `step`, which runs the model on a batch and gives the losses. The weights that they reach are
    trained. Of several phases, all but the last have a name, under which their checkpoints and log lines are stored.
    """

    accelerator: Accelerator
    run: RunFolder
    config: TrainConfig
    module: TrainingModule
    step: Callable[[nn.Module, Batch], Losses]
    shards: Shards
    views: dict[str, View]
    seed: int
    kept: Mapping[str, FeatureShards] = field(default_factory=dict)  # cached features, by teacher
    masks: bool = False  # pairs may lack views
    phase: str = ""
    progress: Progress = field(default_factory=Progress)
    saved: float = field(default_factory=time.monotonic)  # time of the last checkpoint
    told: float = field(default_factory=time.monotonic)  # time of the last line for the user
    unreadable: set[str] = field(default_factory=set)  # problems of pairs that have been printed
    steps: int = field(init=False)  # of the whole phase
    optimiser: Any = field(init=False)
    average: Average | None = field(init=False)
    monitor: Callable[..., dict[str, float]] | None = None  # adds to a line of the log, on rank 0
    calibrate: Callable[[Batch], None] | None = None  # measures statistics before the first step; see `_calibrate`
    beside: Mapping[str, nn.Module] = field(default_factory=dict)  # frozen networks that `step` runs: the teachers
    whole: TrainingModule | None = None  # of a sharded module: gets all weights at the end
    is_overdue: bool = False  # True: rank 0 has not saved for `save_minutes`
    desk: Any = None  # CPU process group to agree on signals without waiting for a GPU

    def fit(self) -> dict[str, Any]:
        """Trains to the last step, from the last checkpoint if there is one; gives the metrics for the report.

        The module ends with the weights to export: the averaged ones if `ema` is set. That of a sharded training is
        another one on rank 0, on the CPU.

        Raises:
            DivergedError: the loss or a trained weight is no longer finite.
            SystemExit: a signal asked to stop; a checkpoint was written, unless the loss is not finite.
        """
        plan = self._set_up()
        self._resume()
        if self.progress.step < self.steps:
            self._train(plan)
        else:
            self.run.begin()
            say(f"{self.name}: from step {self.progress.step}, its last")
        if self.average:
            self.module.load_state_dict(self.average.state)
        self._check_weights()
        if self.whole is not None:
            self.module = unshard(self.module, self.whole)
        return self._figures(plan)

    def _set_up(self) -> Plan:
        forget_peak(self.accelerator.device)
        plan = self._plan()
        self.steps = plan.steps * self.config.passes
        if is_sharded():
            self.whole = outline(self.module)
            shard(self.module, self.accelerator.device)
        else:
            self.module.to(self.accelerator.device)
        if self.config.checkpoint_activations:
            for encoder in self.module.trained.values():
                assert isinstance(encoder, Encoder)
                with at("train.checkpoint_activations"):
                    recompute_blocks(encoder)
        self.optimiser = build_optimiser(self.module, self.config, is_sharded=is_sharded())
        self.average = Average(self.module, self.config.ema) if self.config.ema else None
        return plan

    def _prepare(self, plan: Plan, parts: Iterator[SampleBatch]) -> tuple[nn.Module, SampleBatch, list[nn.Parameter]]:
        """The model to train, the first part, and the weights that are frozen; calibrates if needed."""
        if self.calibrate is not None and not self.progress.calibrated:
            self._calibrate(plan, self.accelerator.num_processes)
        first = next(parts)
        frozen = self._freeze(first)
        compile_networks(self.config, self.module.trained, self.beside)
        if is_sharded():
            return self.module, first, frozen
        model, self.optimiser = self.accelerator.prepare(self.module, self.optimiser)
        return model, first, frozen

    def _train(self, plan: Plan) -> None:
        ranks = self.accelerator.num_processes
        parts = self._parts(plan, ranks)
        self.run.begin()
        if self.accelerator.is_main_process:
            self.run.forget(self._is_ahead)
        self.desk = torch.distributed.new_group(backend="gloo", timeout=distributed.PATIENCE) if ranks > 1 else None
        model, first, frozen = self._prepare(plan, parts)
        if self.progress.step:
            say(f"{self.name}: from step {self.progress.step}")
        self._announce(plan)
        with contextlib.closing(parts), self._trackers(), Signals() as signals, self._bar() as bar:
            names = frozenset({"loss", *self.module.learners})
            before = self.progress.sums if self.accelerator.is_main_process else {}  # of the process that saved them
            metrics = MetricAccumulator(
                names, sums={name: total.to(self.accelerator.device) for name, total in before.items()}
            )
            part: SampleBatch | None = first
            while self._agree(signals, part, metrics) and part is not None:
                metrics.add(self._take(model, part), len(part.index) * ranks)
                bar.update(len(part.index) * ranks)
                if self.progress.step % self.config.log_every == 0 or self.progress.step == self.steps:
                    self._log(metrics, plan)
                    bar.set_postfix(loss=f"{self.progress.last['loss']:.3f}", refresh=False)
                    metrics = MetricAccumulator(names, metrics.total_seconds)
                self._save_when_due(metrics)
                part = signals.next(parts)
        self.progress.seconds += metrics.total_seconds
        say(f"{self.name}: trained, {self.steps} steps in {self.progress.seconds:.0f} s")
        for weight in frozen:
            weight.requires_grad_(True)

    def _calibrate(self, plan: Plan, ranks: int) -> None:
        """Runs the teachers on the first batches of the training, and keeps the result in a checkpoint of step 0."""
        assert self.calibrate is not None
        count = min(plan.steps, math.ceil(CALIBRATION_PAIRS / plan.batch_size))
        say(f"{self.name}: measuring the teachers' features on {count * plan.batch_size} pairs")
        with contextlib.closing(self._parts(plan, ranks)) as parts:
            for part in islice(parts, count):
                batch = to_batch(part, self.views, self.accelerator.device)
                with torch.no_grad(), self.accelerator.autocast():  # not around the reader, which it would reach
                    self.calibrate(batch)
        try:
            self.module.finish_calibration()
        except ValueError as error:
            raise RunError(str(error)) from error
        self.progress.calibrated = True
        if self.average:  # which otherwise begins with buffers that are not a number
            self.average = Average(self.module, self.average.decay)
        self._save(MetricAccumulator(frozenset()))

    @property
    def name(self) -> str:
        """The name of this phase in messages."""
        return f"{self.run.path}" + (f" ({self.phase})" if self.phase else "")

    def _is_ahead(self, line: Mapping[str, Any]) -> bool:
        """True for a log line of this phase whose step will be taken again."""
        return line.get("phase", "") == self.phase and line["step"] > self.progress.step

    @property
    def _checkpoints(self) -> Path:
        return self.run.path / "checkpoints" / self.phase

    def _plan(self) -> Plan:
        try:
            return Plan(
                len(self.shards),
                self.config.batch_size,
                seed=self.seed,
                lanes=self.config.lanes,
                shuffle_block=self.config.shuffle_block,
                shard_starts=tuple(self.shards.starts[:-1].tolist()),
            )
        except ValueError as error:
            raise ConfigError([f"train.{error} (in {self.shards.folder})"]) from error

    def _parts(self, plan: Plan, ranks: int) -> Generator[SampleBatch, None, None]:
        share = plan.batch_size // ranks
        if share % self.config.accumulate:
            raise ConfigError([f"train.accumulate must divide the {share} pairs a process takes a step, "
                               f"got {self.config.accumulate}"])  # fmt: skip
        alone = share == self.config.accumulate and why_not_alone(self.module)
        if alone:
            raise ConfigError([f"train.batch_size must give every part of a step two pairs, for {alone}; got 1"])
        try:
            stream = PairStream(
                self.shards,
                self.views,
                plan,
                crop=Crop(**asdict(self.config.crop)),
                first_step=self.progress.step,
                last_step=self.steps,
                rank=self.accelerator.process_index,
                ranks=ranks,
                skip_unreadable=self.config.on_error == "skip",
                kept=self.kept,
                masks=self.masks,
            )
        except ShardError:
            raise
        except ValueError as error:
            raise ConfigError([f"train.{error}"]) from error
        return train_parts(stream, workers=self.config.workers, device=self.accelerator.device)

    def _freeze(self, part: SampleBatch) -> list[nn.Parameter]:
        """Freezes weights that this phase's losses do not reach, which DDP would wait for; statistics do not change.

        Sharded weights are not frozen: no rank waits for them.
        """
        self.module.eval()
        batch = to_batch(split(part, self.config.accumulate)[0], self.views, self.accelerator.device)
        with self.accelerator.autocast(), refuse_unset_gradients(self.module):
            losses = self.step(self.module, batch)
        if is_sharded():
            left = unreached_backward(self.module, losses.total)
        else:
            left = unreached(self.module, losses.total)
            for weight in left:
                weight.requires_grad_(False)
        self.module.train()
        if not self.phase:
            self._tell_unreached({*map(id, left)})
        return [] if is_sharded() else left

    def _tell_unreached(self, frozen: set[int]) -> None:
        """Warns of an encoder whose embedding rests on weights that no loss reaches."""
        for owner, encoder in self.module.trained.items():
            classifier = getattr(encoder, "classifier", "")
            left = {name: weight.numel() for name, weight in encoder.named_parameters() if id(weight) in frozen
                    and not (classifier and name.startswith(f"trunk.{classifier}"))}  # fmt: skip
            if left:
                say(f"{self.name}: no loss reaches {sum(left.values()):,} weights of the {owner}, the first "
                    f"{next(iter(left))}, so its embedding rests on weights that are not trained; compare its last "
                    "map too, or add an objective of the embedding, such as infonce")  # fmt: skip

    def _take(self, model: nn.Module, part: SampleBatch) -> list[dict[str, Tensor]]:
        """Takes one optimiser step; gives the metrics of its parts, on the device."""
        step, pieces = self.progress.step, split(part, self.config.accumulate)
        if is_sharded():
            share(self.module.buffers())
        seed_everything(self.seed, "step", step, self.accelerator.process_index)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate * rate(self.config, step, self.steps)
        labelled, losses = part.labelled / len(pieces), []
        for number, piece in enumerate(pieces, 1):
            batch = replace(
                to_batch(piece, self.views, self.accelerator.device, seed=self._draws(step)), labelled=labelled
            )
            alone = number < len(pieces) and self.accelerator.num_processes > 1
            with accumulating(model) if alone else contextlib.nullcontext():
                with self.accelerator.autocast():
                    losses.append(self.step(model, batch))
                self.accelerator.backward(losses[-1].total / len(pieces))
        if self.config.clip_norm is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.module.remember(losses)
        self.progress.step += 1
        if self.average:
            self.average.update(self.module, self.progress.step)
        return [loss.figures() for loss in losses]

    def _draws(self, step: int) -> int:
        """The seed of a step's random draws, on every rank."""
        return generator(self.seed, "draws", step).initial_seed() % 2**63

    def _agree(self, signals: Signals, part: SampleBatch | None, metrics: MetricAccumulator) -> bool:
        """Stops all processes if any got a signal; prints and counts the pairs that could not be read.

        Every process calls this before each step, with its next part, and after the last step, with None. A signal
        ends the wait of a process whose loader stalls, and it calls this too. So all stop after the same step.
        """
        replaced = part.replaced if part else ()
        overdue = time.monotonic() - self.saved > 60 * self.config.save_minutes
        own = torch.tensor([signals.caught, len(replaced), overdue])
        by_rank = [own]
        if self.desk is not None:
            by_rank = [torch.empty_like(own) for _ in range(self.accelerator.num_processes)]
            torch.distributed.all_gather(by_rank, own, group=self.desk)
        caught, counts, overdues = torch.stack(by_rank).unbind(1)
        self.is_overdue = bool(overdues[0])
        if number := int(caught.max()):
            say(f"{self.name}: stopped at step {self.progress.step} of {self.steps}; {self._save_last(metrics)}")
            sys.exit(128 + number)
        for problem in set(replaced) - self.unreadable:
            warn(f"{self.run.path}: another pair replaces an unreadable one: {problem}")
        self.unreadable |= set(replaced)
        self.progress.replaced += int(counts.sum())
        return True

    def _log(self, metrics: MetricAccumulator, plan: Plan) -> None:
        """Writes a line of the log: means over the accumulator and all processes."""
        sums = gather(torch.stack([*metrics.sums.values()])[None]).sum(0)
        line = {name: total / parts for name, (total, parts) in zip(metrics.sums, sums.tolist(), strict=True) if parts}
        infinite = [name for name, value in line.items() if not math.isfinite(value)]
        if infinite:
            raise DivergedError(
                f"the loss is no longer finite at step {self.progress.step}: {', '.join(infinite)} of {line}; "
                "lower train.lr, set train.clip_norm, use bf16 instead of fp16, or check the options of these losses"
                f"{self._how_to_find}"
            )
        self.progress.paces.append(metrics.seconds / metrics.steps)
        line |= {
            "step": self.progress.step,
            "epoch": round(self.progress.step / plan.steps, 3),
            "lr": self.config.rate * rate(self.config, self.progress.step - 1, self.steps),
            "pairs_per_second": round(metrics.pairs / metrics.seconds, 1),
        }
        self.progress.last = line
        if self.accelerator.is_main_process:
            if self.monitor:
                before = max(self.progress.step - self.config.log_every, 0)
                line |= self.monitor(line, before=before // plan.steps, epochs=self.progress.step // plan.steps)
            self.run.log(line | ({"phase": self.phase} if self.phase else {}))
        if time.monotonic() - self.told > TELL_SECONDS and not sys.stderr.isatty():  # there is no progress bar
            self.told = time.monotonic()
            say(f"{self.name}: step {self.progress.step} of {self.steps}, loss {line['loss']:.4g}, "
                f"{line['pairs_per_second']} pairs a second")  # fmt: skip
        if self.config.trackers:
            self.accelerator.log(line, step=self.progress.step)

    def _save_when_due(self, metrics: MetricAccumulator) -> None:
        """Saves if due by step, or by the time before the step; see `_save`."""
        ends = self.progress.step == self.steps  # the last phase ends with an exported model, others with a checkpoint
        by_step = bool(self.phase) if ends else self.progress.step % self.config.save_every == 0
        if by_step or self.is_overdue:
            self._save(metrics)
            self.saved = time.monotonic()

    def _save_last(self, metrics: MetricAccumulator) -> str:
        """Saves before the run stops; gives the words that say where the same command continues."""
        if self._save(metrics):
            return "the same command continues"
        latest = checkpoint.latest(self._checkpoints)
        return ("no checkpoint was written, because the loss is no longer finite; the same command "
                + (f"continues from {latest}" if latest else "starts again from step 0"))  # fmt: skip

    def _save(self, metrics: MetricAccumulator) -> bool:
        """Writes a checkpoint, unless a metric is not finite; gives True if it did.

        The next line of the log reports such a metric, and earlier checkpoints stay valid. Rank 0 writes, and no other
        rank waits for it; a sharded state is written by all.
        """
        is_whole = not self._state.is_sharded
        if is_whole and not self.accelerator.is_main_process:
            return True
        is_finite = all(bool(total.isfinite().all()) for total in metrics.sums.values())
        if not (is_finite if is_whole else all(distributed.gather(is_finite))):
            return False
        progress = replace(self.progress, seconds=self.progress.seconds + metrics.total_seconds, peak_mb=self._peak_mb)
        self._state.save(self._checkpoints, progress, metrics.sums, group=self.desk)
        return True

    def _resume(self) -> None:
        self.progress = self._state.load(self._checkpoints) or self.progress

    @property
    def _state(self) -> TrainingState:
        is_spread = is_sharded() or any(pool.share and pool.share.ranks > 1 for pool in self._pools)
        return TrainingState(self.module, self.optimiser, self.average, self.accelerator.scaler, is_sharded=is_spread)

    @property
    def _pools(self) -> list[Pool]:
        return [pool for pool in self.module.modules() if isinstance(pool, Pool)]

    def _announce(self, plan: Plan) -> None:
        config, ranks = self.config, self.accelerator.num_processes
        left = plan.pairs - plan.steps * plan.batch_size
        shared = f" on {ranks} processes" * (ranks > 1) + f" in {config.accumulate} parts" * (config.accumulate > 1)
        terms = [f"{weight:g} {name}" for name, weight in self.module.weights.items()]
        say(
            f"{self.name}: {plan.pairs} pairs, {config.passes} epochs of {plan.steps} steps; "
            f"batch {plan.batch_size}{shared}; "
            f"{plan.width} lanes, {config.workers} workers a process; {left} pairs wait for the next epoch; "
            f"on {self.accelerator.device}; {' + '.join(terms)}"
        )
        if spread := [pool for pool in self._pools if pool.share]:
            size = sum(item.nbytes for pool in spread for item in pool.remembered.values()) / 1e6
            say(f"{self.name}: each rank holds {size:,.1f} MB of sharded banks, its share of {len(self.shards)} pairs")
        lanes, workers = plan.width // ranks, config.workers
        if workers and lanes % min(workers, lanes):
            say(f"{self.name}: {workers} workers share {lanes} lanes unevenly, so steps wait for those with the most")

    @property
    def _peak_mb(self) -> float:
        return max(self.progress.peak_mb, peak_mb(self.accelerator.device))

    @property
    def _how_to_find(self) -> str:
        trials = has_trials(type(self.run.config))
        return "; the same command with --replay names the step, the layer and the pairs" if trials else ""

    def _check_weights(self) -> None:
        """Refuses weights that the last step made infinite; its loss, taken before, does not show it."""
        bad = [
            f"{name} of the {owner}"
            for owner, encoder in self.module.trained.items()
            for name, tensor in encoder.state_dict().items()
            if not local(tensor).isfinite().all()
        ]
        every = distributed.gather(bad) if is_sharded() else [bad]  # each rank knows its own part
        for name in (name for bad in every for name in bad):
            raise DivergedError(f"{name} is no longer finite after step {self.progress.step}; "
                                f"lower train.lr, or set train.clip_norm{self._how_to_find}")  # fmt: skip

    def _figures(self, plan: Plan) -> dict[str, Any]:
        pairs = self.steps * plan.batch_size
        return {
            "steps": self.steps,
            "pairs": plan.pairs,
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
            "seconds": round(self.progress.seconds, 1),
            "pairs_per_second": round(pairs / self.progress.seconds, 1) if self.progress.seconds else None,
            "milliseconds_per_step": round(1000 * statistics.median(self.progress.paces), 2),  # with reading
            "peak_memory_mb": self._peak_mb,  # of rank 0; see `memory.peak_mb`
            "unreadable_replaced": self.progress.replaced,
            "last": {name: value for name, value in self.progress.last.items() if name != "pairs_per_second"},
        }

    @contextlib.contextmanager
    def _trackers(self) -> Iterator[None]:
        if self.config.trackers:
            self.accelerator.init_trackers("-".join(filter(None, (self.run.pipeline, self.phase))))
        try:
            yield
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()  # not `end_training`: the next stage of `run` still needs the process group

    def _bar(self) -> Any:
        ranks = self.accelerator.num_processes
        done, size = self.progress.step, self.config.batch_size // ranks * ranks
        return progress_bar(total=self.steps * size, initial=done * size, unit=" pairs", desc=self.name)


def split(part: SampleBatch, pieces: int) -> list[SampleBatch]:
    """A part of a step in equal pieces."""
    size = len(part.index) // pieces
    cuts = [slice(start, start + size) for start in range(0, len(part.index), size)]
    return [part.each(lambda tensor, cut=cut: tensor[cut]) for cut in cuts]  # type: ignore[misc]
