"""Trials of a training, on models whose losses and faults are known beforehand."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ENCODER, write
from torch import Tensor, nn

from crossmodal.contrast.build import build_pool
from crossmodal.contrast.options import Negatives
from crossmodal.contrast.pool import Relation
from crossmodal.data.order import Plan
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.modules.base import Losses, TrainingModule
from crossmodal.objectives import Batch, Learner, Outcome
from pipelines.__main__ import main
from pipelines.config.errors import ConfigError, FinishedError, TrialError
from pipelines.config.trials import read_trial
from pipelines.runs.folder import RunFolder
from pipelines.schemas import evaluate, transfer
from pipelines.schemas.common import TrainConfig, Trial
from pipelines.training import trials
from pipelines.training.accelerator import open_accelerator

BATCH = 16


class Poison(nn.Module):
    """Passes values on, but makes those of one pair NaN."""

    def __init__(self, bad: int | None) -> None:
        super().__init__()
        self.bad = bad

    def forward(self, values: Tensor, index: Tensor) -> Tensor:
        """The values."""
        return values if self.bad is None else values.masked_fill(index == self.bad, torch.nan)


class Table(TrainingModule):
    """One free number for each pair, to be the pair's label: mean((number - label)^2), or its root."""

    def __init__(self, pairs: int, *, bad: int | None = None, root: bool = False, scale: float = 1.0) -> None:
        super().__init__({"table": Learner()}, {"table": 1.0})
        self.numbers, self.poison = nn.Embedding(pairs, 1), Poison(bad)
        self.unused = nn.Linear(1, 1)
        self.root, self.scale = root, scale
        nn.init.constant_(self.numbers.weight, -1.0)
        self.weights_before: list[Tensor] = []

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The table."""
        return {"student": self.numbers}

    def forward(self, batch: Batch) -> Losses:
        """The loss."""
        if torch.is_grad_enabled():
            self.weights_before.append(self.numbers.weight.detach().clone())
        numbers = self.poison(self.numbers(batch.index)[:, 0] * self.scale, batch.index)
        errors = (numbers - batch.label).square().mean()
        return self.add_up({"table": Outcome((errors * 0).sqrt() + 1 if self.root else errors)})


@pytest.fixture(scope="module")
def shards(synthetic: Path) -> Shards:
    return Shards.open(synthetic / "train")


def fit(trial: Trial, model: TrainingModule, shards: Shards, folder: Path, **options: Any) -> None:
    config = TrainConfig(**{
        "epochs": 2, "batch_size": BATCH, "optimiser": "sgd", "momentum": 0.0, "lr": 0.5, "weight_decay": 0.0,
        "workers": 0, **options,
    })  # fmt: skip
    run = RunFolder.of(folder, "transfer", config, {})
    view = open_view(shards, "rgb", size=8)
    accelerator = open_accelerator(config, folder)
    step = lambda module, batch: module(batch)  # noqa: E731
    trials.training_for(trial)(accelerator, run, config, model, step, shards, {"rgb": view}, seed=3).fit()


def test_a_dry_run_tells_the_costs_and_writes_nothing(
    shards: Shards, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "crossmodal")
    pairs = len(shards)
    with pytest.raises(FinishedError, match="dry run of 6 steps; nothing was written"):
        fit("dry_run", Table(pairs), shards, tmp_path / "run")
    told = caplog.text
    assert not (tmp_path / "run").exists()
    assert f"for all {2 * (pairs // BATCH)} steps" in told
    assert f"student {pairs} trained" in told
    # SGD keeps no state: a checkpoint holds the table and the linear layer, 4 bytes a number
    assert f"a checkpoint takes {(pairs + 2) * 4 / 1e6:,.0f} MB" in told


def test_a_dry_run_of_the_only_step_tells_its_losses(
    shards: Shards, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "crossmodal")
    with pytest.raises(FinishedError, match="dry run of 1 steps"):
        fit("dry_run", Table(len(shards)), shards, tmp_path / "run", epochs=1, batch_size=len(shards))
    assert "losses      loss " in caplog.text


def test_one_batch_is_learnt_by_heart_at_the_rate_of_gradient_descent(
    shards: Shards, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "crossmodal")
    monkeypatch.setattr(trials, "OVERFIT", 20)
    with pytest.raises(FinishedError, match="every loss fell"):
        fit("overfit", Table(len(shards)), shards, tmp_path / "run", lr=1.0)
    first, last = map(float, re.findall(r"loss ([\d.]+) at first, ([\d.e-]+) after 20 steps", caplog.text)[0])
    # every number's error shrinks by 1 - 2 lr / batch a step; the last loss is that before the 20th step
    assert last == pytest.approx(first * (1 - 2 / BATCH) ** (2 * 19), rel=1e-3)
    assert not (tmp_path / "run").exists()


def test_a_loss_and_weights_that_do_not_learn_are_named(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "OVERFIT", 5)
    with pytest.raises(TrialError, match=r"table did not fall: .* at the end; the weights numbers.weight did not move"):
        fit("overfit", Table(len(shards), scale=0.0), shards, tmp_path / "run", lr=1e-3)


class Rise(Table):
    """A loss below 0 that nothing lowers, and that rises a little."""

    def forward(self, batch: Batch) -> Losses:
        """The loss."""
        errors = self.numbers(batch.index).square().mean()
        return self.add_up({"table": Outcome(errors - errors.detach() - 3 + 0.01 * len(self.weights_before))})


def test_a_loss_below_0_must_fall_too(shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "OVERFIT", 5)
    with pytest.raises(TrialError, match="table did not fall: -3 at first"):
        fit("overfit", Rise(len(shards)), shards, tmp_path / "run")


def test_a_replay_finds_the_step_the_layer_and_the_pair(shards: Shards, tmp_path: Path) -> None:
    plan = Plan(len(shards), BATCH, seed=3, shard_starts=tuple(shards.starts[:-1].tolist()))
    steps = [row for epoch in range(2) for row in plan.epoch(epoch).reshape(plan.steps, -1)]
    bad = int(steps[3][5])
    due = next(number for number, row in enumerate(steps, 1) if bad in row)
    model, folder = Table(len(shards), bad=bad), tmp_path / "run"
    folder.mkdir()
    with pytest.raises(TrialError) as found:
        fit("replay", model, shards, folder)
    text = str(found.value)
    assert f"step {due}: table is not finite" in text and "output is not finite is poison" in text
    stored = torch.load(folder / trials.DIVERGED, weights_only=True)
    assert stored["step"] == due and bad in stored["index"].tolist()
    assert sorted(stored["index"].tolist()) == sorted(steps[due - 1].tolist())
    assert torch.equal(stored["module"]["numbers.weight"], model.weights_before[due])  # the loop looks once before
    assert stored["inputs"]["rgb"].shape == (BATCH, 3, 8, 8)


class Growing(Learner):
    """Counts the steps, and turns values into NaN at one of them."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        self.bad, self.steps = bad, torch.zeros(())

    def forward(self, values: Tensor) -> Tensor:
        """The values."""
        return values * torch.where(self.steps == self.bad, torch.nan, 1.0)

    def remember(self, *memo: Tensor) -> None:
        """One more step."""
        self.steps += 1

    def memory(self) -> dict[str, Tensor]:
        """The number of steps."""
        return {"steps": self.steps}


class Growth(Table):
    """A table whose fault depends on what an objective remembers."""

    def __init__(self, pairs: int, *, bad: int) -> None:
        super().__init__(pairs)
        self.learners["table"] = self.objectives["table"] = Growing(bad)
        self.sizes: list[int] = []

    def forward(self, batch: Batch) -> Losses:
        """The loss."""
        self.sizes.append(len(batch.index))
        numbers = self.learners["table"](self.numbers(batch.index)[:, 0])
        return self.add_up({"table": Outcome((numbers - batch.label).square().mean(), (batch.index,))})


def test_a_replay_repeats_the_step_as_it_was(shards: Shards, tmp_path: Path) -> None:
    model = Growth(len(shards), bad=2)
    (tmp_path / "run").mkdir()
    with pytest.raises(TrialError, match=r"step 3: table is not finite; the first layer .* is objectives\.table;"):
        fit("replay", model, shards, tmp_path / "run", accumulate=2)
    assert {*model.sizes} == {BATCH // 2}


def test_a_replay_names_the_gradient_where_the_loss_is_finite(shards: Shards, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(TrialError, match=r"the loss is finite, but the gradient of numbers\.weight is not"):
        fit("replay", Table(len(shards), root=True), shards, tmp_path / "run")


def test_a_replay_without_a_fault_says_so(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(FinishedError, match="every loss and weight was finite from step 0 to"):
        fit("replay", Table(len(shards)), shards, tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (Negatives("batch"), 7),
        (Negatives("gathered"), 15),
        (Negatives("queue", count=40), 40),
        (Negatives("bank", count=40), 40),
        (Negatives("bank", count=400), 99),  # of 100 pairs, all others
        (Negatives("bank", draw="all"), 99),
    ],
)
def test_a_pool_counts_its_negatives(options: Negatives, count: int) -> None:
    assert build_pool(options, Relation(), 100, 4, name="side").count(8, 2) == count


def test_a_flag_sets_the_field() -> None:
    assert read_trial("transfer", transfer.Config, ["my.yaml", "--dry-run", "seed=1"]) == [
        "my.yaml", "seed=1", "trial=dry_run",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="give one of --overfit, --replay"):
        read_trial("transfer", transfer.Config, ["--overfit", "my.yaml", "--replay"])
    with pytest.raises(ConfigError, match="evaluate has no --dry-run; transfer, supervise and pretrain have"):
        read_trial("evaluate", evaluate.Config, ["my.yaml", "--dry-run"])


@pytest.mark.slow
def test_the_commands_try_and_then_train(synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(write(tmp_path / "depth.yaml", {
        "data": str(synthetic / "train"),
        "views": {"depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
        "encoders": {"depth": {"view": "depth", "encoder": ENCODER}},
        "objectives": {"infonce": None},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0},
        "output": str(tmp_path / "run"),
    }))  # fmt: skip
    for words, told in (
        (["--dry-run"], "negatives   infonce: "),
        (["--dry-run"], "dry run of"),
        (["--replay"], "every loss and weight was finite"),
    ):
        assert main(["pretrain", config, *words]) == 0
        assert told in capsys.readouterr().out
        assert not (tmp_path / "run").exists()
    wild = ["pretrain", config, "train.lr=1e30"]
    assert main(wild) == 1
    assert "the same command with --replay names the step, the layer and the pairs" in capsys.readouterr().err
    assert main([*wild, "--replay"]) == 1
    assert re.search(r"step \d: .* is not finite; .*; the pairs are \S+, .* and \d+ others", capsys.readouterr().err)
    assert (tmp_path / "run" / trials.DIVERGED).is_file()
