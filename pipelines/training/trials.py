"""Trials of a training: its costs, one batch learnt by heart, or the cause of a loss that is not finite."""

import contextlib
import io
import math
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from crossmodal.checkpoint import write
from crossmodal.contrast.pool import Pool
from crossmodal.contrast.queue import Queue
from crossmodal.data.order import Plan
from crossmodal.data.reader import SampleBatch, to_batch
from crossmodal.distributed import gather
from pipelines.config import ConfigError
from pipelines.config.errors import FinishedError, TrialError
from pipelines.runs.console import say
from pipelines.schemas.common import Trial
from pipelines.training.loop import Training, seed_everything, split
from pipelines.training.memory import peak_mb
from pipelines.training.progress import MetricAccumulator

TIMED = 5  # steps whose time is measured, after one that is not
OVERFIT = 200  # steps on one batch
LEARNT = 0.05  # a loss that learns falls by this share of its first value; the floor of some is far above 0
STILL = 1e-6  # relative change of weights that do not learn
DIVERGED = "diverged.pt"


def training_for(trial: Trial | None) -> type[Training]:
    """The class that trains, or that only tries to."""
    return Training if trial is None else {"dry_run": DryRun, "overfit": Overfit, "replay": Replay}[trial]


class _Trial(Training):
    """Writes no checkpoint, and begins no run."""

    def _save(self, metrics: MetricAccumulator) -> bool:
        return False

    @contextlib.contextmanager
    def _ready(self, plan: Plan) -> Iterator[tuple[nn.Module, SampleBatch, Iterator[SampleBatch]]]:
        """The model, the first part of a step, and the others."""
        with contextlib.closing(self._parts(plan, self.accelerator.num_processes)) as parts:
            model, first, _ = self._prepare(plan, parts)
            yield model, first, parts


class DryRun(_Trial):
    """Takes a few steps and tells what the whole training costs."""

    def fit(self) -> NoReturn:
        """Tells steps, weights, negatives, time and memory.

        Raises:
            FinishedError: always, at the end.
        """
        spent: dict[str, float] = {}
        plan = self._set_up()
        with self._ready(plan) as (model, first, parts):
            self._announce(plan)
            figures = self._take(model, first)
            read = total = 0.0
            for _ in range(taken := min(TIMED, self.steps - 1)):
                start = time.monotonic()
                part = next(parts)
                read += time.monotonic() - start
                with self._timed(spent):
                    figures = self._take(model, part)
                self._wait()
                total += time.monotonic() - start
        self._tell_networks()
        self._tell_negatives(len(first.index) // self.config.accumulate)
        say("losses      " + ", ".join(f"{name} {value:.3g}" for name, value in _means(figures).items()))
        if taken:
            teachers = "".join(f", teacher {name} {seconds / total:.0%}" for name, seconds in spent.items())
            say(f"time        {total / taken:.3g} s a step (waiting for pairs {read / total:.0%}{teachers}); "
                f"{_duration(total / taken * self.steps)} for all {self.steps} steps")  # fmt: skip
        size = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())
        peak = peak_mb(self.accelerator.device)
        say(f"memory      {peak:,.0f} MB at the peak; a checkpoint takes {size / 1e6:,.0f} MB")
        raise FinishedError(f"{self.name}: dry run of {taken + 1} steps; nothing was written")

    @contextlib.contextmanager
    def _timed(self, spent: dict[str, float]) -> Iterator[None]:
        """Adds the seconds of the networks beside the module."""
        hooks, began = [], dict[str, float]()

        def begin(name: str) -> None:
            self._wait()
            began[name] = time.monotonic()

        def end(name: str) -> None:
            self._wait()
            spent[name] = spent.get(name, 0.0) + time.monotonic() - began[name]

        for name, network in self.beside.items():
            hooks.append(network.register_forward_pre_hook(lambda *_, name=name: begin(name)))
            hooks.append(network.register_forward_hook(lambda *_, name=name: end(name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _wait(self) -> None:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)

    def _tell_networks(self) -> None:
        told = []
        parts = {**self.module.trained, **{f"objective {name}": each for name, each in self.module.learners.items()},
                 **{f"teacher {name}": each for name, each in self.beside.items()}}  # fmt: skip
        for name, network in parts.items():
            sizes = [(each.numel(), each.requires_grad) for each in network.parameters()]
            if sizes:
                total, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
                rest = "trained" if trained == total else f"of which {trained:,} trained" if trained else "frozen"
                told.append(f"{name} {total:,} {rest}")
        say("weights     " + "; ".join(told))

    def _tell_negatives(self, batch: int) -> None:
        for name, learner in self.module.learners.items():
            counts = {pool.count(batch, self.accelerator.num_processes)
                      for pool in learner.modules() if isinstance(pool, Pool)}  # fmt: skip
            if counts:
                most = max(counts)
                others = len(self.shards) - 1
                beyond = f", drawn from the {others:,} other pairs, so with repetitions" if most > others else ""
                say(f"negatives   {name}: {most:,} for each pair{beyond}")

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.module.state_dict().values()
        yield from self.module.memory().values()
        for state in self.optimiser.state_dict()["state"].values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


class Overfit(_Trial):
    """Learns one batch by heart, which finds data, networks and objectives that cannot learn."""

    def fit(self) -> NoReturn:
        """Tells how far each loss fell.

        Raises:
            FinishedError: every loss fell.
            TrialError: one did not; the message names it, and weights that did not move.
        """
        if self.accelerator.num_processes > 1:
            raise ConfigError(["trial: overfit uses one process; start it without a launcher"])
        self.config = replace(self.config, schedule="constant", warmup=0.0, ema=None)
        history: list[dict[str, float]] = []
        with self._ready(self._set_up()) as (model, part, _):
            before = deepcopy(self.module.state_dict())
            self.steps, queued = OVERFIT, dict[Tensor, Tensor]()
            for _ in range(OVERFIT):
                history.append(_means(self._take(model, part)))
                for tensor, value in queued.items():  # or a queue would fill with copies of the batch
                    tensor.copy_(value)
                queued = queued or {tensor: tensor.clone() for tensor in self._queues()}
                if not all(map(math.isfinite, history[-1].values())):
                    break
        last = history[-1]
        faults = []
        for name in [name for name, weight in self.module.weights.items() if weight]:
            first = max(losses[name] for losses in history[:2])  # a queue is empty at the first step
            say(f"{name}: loss {first:.4g} at first, {last[name]:.4g} after {len(history)} steps "
                f"on the same {len(part.index)} pairs")  # fmt: skip
            if not last[name] <= first - LEARNT * abs(first):
                faults.append(f"{name} did not fall: {first:.4g} at first, {last[name]:.4g} at the end")
        faults += [f"the weights {name} did not move" for name in self._still(before)]
        if faults:
            raise TrialError(f"{self.name}: " + "; ".join(faults))
        raise FinishedError(f"{self.name}: every loss fell, so the networks can learn from this data with these "
                            "objectives; nothing was written")  # fmt: skip

    def _queues(self) -> Iterator[Tensor]:
        for pool in self.module.modules():
            if isinstance(pool, Queue):
                yield from pool.remembered.values()

    def _still(self, before: Mapping[str, Tensor]) -> list[str]:
        """Names of the parts of the module of which no weight has moved, though some may."""
        moved: dict[str, float] = {}
        state = dict(self.module.named_parameters())
        for name, weight in state.items():
            if weight.requires_grad:
                part = ".".join(name.split(".")[:3])
                change = (weight.detach() - before[name]).norm() / before[name].norm().clamp(min=1e-12)
                moved[part] = max(moved.get(part, 0.0), float(change))
        return [part for part, change in moved.items() if not change > STILL]


class Replay(_Trial):
    """Repeats a training from its last checkpoint, and looks at every step for the first value that is not finite."""

    def fit(self) -> Any:
        """Finds the step, and stores its batch and the weights before it in the run's folder.

        Raises:
            FinishedError: every value was finite.
            TrialError: tells the step, the layer and the pairs.
        """
        self.config = replace(self.config, compile=False)  # layers are watched one by one
        plan = self._set_up()
        self._resume()
        start = self.progress.step
        if start < self.steps:
            with self._ready(plan) as (model, first, parts):
                self._repeat(model, chain([first], parts))
        if self.phase:
            if self.average:
                self.module.load_state_dict(self.average.state)
            return {}
        raise FinishedError(f"{self.name}: every loss and weight was finite from step {start} to {self.steps}")

    def _repeat(self, model: nn.Module, parts: Iterator[SampleBatch]) -> None:
        for part in parts:
            before = deepcopy((self.module.state_dict(), self.module.memory()))
            losses = _means(self._take(model, part))
            bad = [name for name in self.module.learners if not math.isfinite(losses[name])]
            if not bad:
                bad = [name for name, weight in self.module.named_parameters() if not weight.isfinite().all()][:1]
            if gather(torch.tensor([len(bad)], device=self.accelerator.device)).any():
                self._restore(*before)
                cause = self._cause(part)  # on every process, because objectives gather from all
                raise TrialError(self._explain(part, before[0], bad, cause))

    def _restore(self, state: dict[str, Tensor], memory: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)
        for name, tensor in self.module.memory().items():
            tensor.copy_(memory[name])
        self.optimiser.zero_grad()

    def _explain(self, part: SampleBatch, before: dict[str, Tensor], bad: list[str], cause: str) -> str:
        step, rank = self.progress.step, self.accelerator.process_index
        if not bad:
            return f"{self.name}: step {step} is not finite on another process"
        inputs = to_batch(part, self.views, self.accelerator.device, seed=self._draws(step - 1)).inputs
        stored = io.BytesIO()
        torch.save({"step": step, "module": before, "inputs": inputs, "index": part.index}, stored)
        path = self.run.path / (DIVERGED if not rank else f"{rank}.{DIVERGED}")
        write(path, stored.getvalue())
        keys = [self.shards.locate(int(index))[1].key for index in part.index]
        return (f"{self.name}: step {step}: {', '.join(bad)} is not finite; {cause}; the pairs are "
                f"{', '.join(keys[:4])}{f' and {len(keys) - 4} others' if keys[4:] else ''}; "
                f"{path} holds the batch and the weights before the step")  # fmt: skip

    def _cause(self, part: SampleBatch) -> str:
        """The first value that is not finite, in the order of computation."""
        causes, pieces, step = list[str](), split(part, self.config.accumulate), self.progress.step - 1
        layers = {"": self.module, **{f"teacher {name}: ": network for name, network in self.beside.items()}}
        hooks = [
            layer.register_forward_hook(lambda _, __, output, name=owner + name: _note(causes, name, output))
            for owner, network in layers.items()
            for name, layer in network.named_modules()
            if not [*layer.children()]
        ]
        seed_everything(self.seed, "step", step, self.accelerator.process_index)
        labelled = part.labelled / len(pieces)
        try:
            for piece in pieces:
                batch = to_batch(piece, self.views, self.accelerator.device, seed=self._draws(step))
                causes += [f"the view {name} is not finite" for name, view in batch.inputs.items()
                           if not view.isfinite().all()]  # fmt: skip
                with self.accelerator.autocast():
                    losses = self.step(self.module, replace(batch, labelled=labelled))
                if not losses.total.isfinite():
                    causes.append("the output of every layer is finite, but the loss is not")
                losses.total.backward()
        finally:
            for hook in hooks:
                hook.remove()
        causes += [f"the loss is finite, but the gradient of {name} is not"
                   for name, weight in self.module.named_parameters()
                   if weight.grad is not None and not weight.grad.isfinite().all()]  # fmt: skip
        return [*causes, "loss and gradients are finite, so the optimiser's step is too large; lower train.lr"][0]


def _note(causes: list[str], name: str, output: object) -> None:
    if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
        causes.append(f"the first layer whose output is not finite is {name}")


def _means(pieces: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each loss over the parts of a step."""
    return {name: sum(float(piece[name]) for piece in pieces) / len(pieces) for name in pieces[0]}


def _duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
