"""The training loop on a model small enough to follow by hand: gradients, rates, draws, memories and averages."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.modules.base import Losses, TrainingModule
from crossmodal.objectives import Batch, Learner, Outcome
from pipelines.runs.folder import RunFolder
from pipelines.schemas.common import TrainConfig
from pipelines.training.accelerator import open_accelerator
from pipelines.training.loop import Training

STEPS, BATCH, LR = 6, 16, 0.05


class Counts(Learner):
    """Remembers how often each pair came, and what the weights were then."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self.owner, self.weights = [owner], list[Tensor]()  # in a list: it is no part of this module
        self.seen = torch.zeros(96)

    def remember(self, *memo: Tensor) -> None:
        """Counts the pairs."""
        self.seen[memo[0]] += 1
        self.weights.append(self.owner[0].weight.detach().clone())

    def memory(self) -> dict[str, Tensor]:
        """The counts."""
        return {"seen": self.seen}


class Line(TrainingModule):
    """A label predicted from the mean of each channel; (prediction - label)^2, a mean over pairs."""

    def __init__(self) -> None:
        layer = nn.Linear(3, 1, bias=False)
        counts = Counts(layer)
        super().__init__({"line": counts}, {"line": 1.0})
        self.counts, self.layer = counts, layer
        nn.init.constant_(layer.weight, 0.5)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The layer."""
        return {"student": self.layer}

    def forward(self, batch: Batch) -> Losses:
        """The loss."""
        errors = self.layer(batch.inputs["rgb"].mean((2, 3)))[:, 0] - batch.label
        return self.add_up({"line": Outcome(errors.square().mean(), (batch.index,))})


@dataclass
class Watched:
    """A training, and what its model was given, part by part."""

    folder: Path
    shards: Shards
    config: TrainConfig
    parts: list[Batch] = field(default_factory=list)
    random: list[float] = field(default_factory=list)
    modes: set[bool] = field(default_factory=set)
    stop_at: int | None = None  # part at which the power fails

    def train(self, run: RunFolder | None = None) -> tuple[Line, RunFolder]:
        """Trains a new model to the end, or until the power fails."""
        model, run = Line(), run or RunFolder.of(self.folder, "transfer", self.config, {})
        probes = 1  # the loop asks once what the loss reaches

        def step(module: nn.Module, batch: Batch) -> Losses:
            nonlocal probes
            if probes:
                probes -= 1
                return module(batch)
            if len(self.parts) == self.stop_at:
                self.stop_at = None
                raise OSError("no power")
            self.parts.append(batch)
            self.random.append(torch.rand(()).item())
            self.modes.add(module.training)
            return module(batch)

        view = open_view(self.shards, "rgb", size=8)
        accelerator = open_accelerator(self.config, self.folder)
        Training(accelerator, run, self.config, model, step, self.shards, {"rgb": view}, seed=3).fit()
        return model, run


def watch(folder: Path, data: Path, **options: Any) -> Watched:
    config = TrainConfig(**{
        "epochs": 1, "batch_size": BATCH, "optimiser": "sgd", "momentum": 0.0, "lr": LR, "weight_decay": 0.0,
        "warmup": 0.0, "workers": 0, "log_every": 1, "save_every": 2, **options,
    })  # fmt: skip
    return Watched(folder / "run", Shards.open(data / "train"), config)


def rows_of(part: Batch) -> tuple[Tensor, Tensor]:
    return part.inputs["rgb"].mean((2, 3)), part.label.float()


def follow(parts: list[Batch], pieces: int) -> list[Tensor]:
    """The weights after every step, by the formula: the step's mean gradient times the cosine's rate."""
    weights, found = torch.full((3,), 0.5), []
    for step in range(len(parts) // pieces):
        inputs, labels = (torch.cat(each) for each in zip(*map(rows_of, parts[step * pieces :][:pieces]), strict=True))
        gradient = 2 * (inputs * (inputs @ weights - labels)[:, None]).mean(0)
        weights = weights - LR * (1 + math.cos(math.pi * step / STEPS)) / 2 * gradient
        found.append(weights)
    return found


@pytest.mark.parametrize("pieces", [1, 2])
def test_every_step_follows_the_mean_gradient_of_its_batch(tmp_path: Path, synthetic: Path, pieces: int) -> None:
    watched = watch(tmp_path, synthetic, accumulate=pieces)
    model, _ = watched.train()
    weights = follow(watched.parts, pieces)
    assert len(watched.parts) == STEPS * pieces and watched.modes == {True}
    torch.testing.assert_close(model.layer.weight[0], weights[-1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(model.counts.weights), torch.stack(weights), atol=1e-5, rtol=1e-5)
    assert model.counts.seen.tolist() == [1.0] * 96  # of every part, and after the step


def test_what_is_drawn_changes_with_the_step_and_is_shared_by_its_parts(tmp_path: Path, synthetic: Path) -> None:
    watched = watch(tmp_path, synthetic, accumulate=2)
    watched.train()
    seeds = [part.seed for part in watched.parts]
    assert seeds[::2] == seeds[1::2] and len({*seeds}) == STEPS
    assert len({*watched.random}) == 2 * STEPS
    assert {part.labelled for part in watched.parts} == {BATCH / 2}


def test_the_last_weights_are_the_average_over_all_steps(tmp_path: Path, synthetic: Path) -> None:
    watched = watch(tmp_path, synthetic, ema=0.3)
    model, _ = watched.train()
    average = torch.full((3,), 0.5)
    for step, weights in enumerate(follow(watched.parts, 1), 1):
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(model.layer.weight[0], average, atol=1e-5, rtol=1e-5)


def test_gradients_are_no_longer_than_asked_for(tmp_path: Path, synthetic: Path) -> None:
    watched = watch(tmp_path, synthetic, clip_norm=0.01)
    model, _ = watched.train()
    moves = torch.cat([torch.full((1, 3), 0.5), *model.counts.weights]).diff(dim=0).norm(dim=1)
    rates = torch.tensor([LR * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS)])
    torch.testing.assert_close(moves, 0.01 * rates, atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"momentum": 0.9}, {"optimiser": "adamw"}, {"accumulate": 2}])
def test_a_run_goes_on_as_if_the_power_had_not_failed(tmp_path: Path, synthetic: Path, options: dict[str, Any]) -> None:
    whole = watch(tmp_path / "whole", synthetic, **options)
    expected, _ = whole.train()
    pieces = options.get("accumulate", 1)
    cut = watch(tmp_path / "cut", synthetic, **options)
    cut.stop_at = 5 * pieces  # a checkpoint holds the first 4 steps
    run = RunFolder.of(cut.folder, "transfer", cut.config, {})
    with pytest.raises(OSError, match="no power"):
        cut.train(run)
    seen, cut.parts, cut.random = cut.parts, [], []
    model, _ = cut.train(run)
    assert torch.equal(model.layer.weight, expected.layer.weight)
    assert torch.equal(model.counts.seen, expected.counts.seen)
    for part, again in zip([*seen[: 4 * pieces], *cut.parts], whole.parts, strict=True):
        assert torch.equal(part.index, again.index) and part.seed == again.seed
        assert torch.equal(part.inputs["rgb"], again.inputs["rgb"])
    assert cut.random == whole.random[4 * pieces :]
