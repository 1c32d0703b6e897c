"""What training by stages and caching gradients save of memory and cost of time, against end to end and a small batch.

python benchmarks/local.py          a quarter of an hour on two cores
python benchmarks/local.py small    a minute: small batches, to see that it runs

By stages: 64 pairs of two looks at 64 x 64, ResNet of 18 and 50 layers with LoCo's heads; units of 1 (greedy) and 2
(LoCo) against 4 (end to end). Cached: 4,096 pairs, 256 at a time, against a batch of 256, ConvNet with group norm.
Every step is a process of its own, in turns; memory is the growth of its peak, time is that of a pair.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from crossmodal import ENCODERS, MULTIVIEW
from crossmodal.modules.base import TrainingModule
from crossmodal.modules.pretraining import Branch, LocalPretraining, Pretraining, find_pairings, name_crop
from crossmodal.modules.projector import MapProjector, Projector
from crossmodal.objectives import Batch
from modalities.common.random import generator
from pipelines.training.memory import forget_peak, peak_mb

SIDE, LOOKS, DIM, TURNS = 64, 2, 128, 3


@dataclass(frozen=True)
class Setting:
    """One way to take a step."""

    encoder: str
    options: dict[str, Any] = field(default_factory=dict)
    pairs: int = 64
    unit: int | None = None  # stages that a loss trains; None: no stages
    chunk: int | None = None  # pairs seen at a time; None: all

    @property
    def name(self) -> str:
        """As in the table."""
        depth = self.options.get("depth", "")
        how = f"unit {self.unit}" if self.unit else f"{self.chunk} at a time" if self.chunk else "whole"
        return f"{self.encoder} {depth}".strip() + f", {self.pairs} pairs, {how}"


def groups(*, small: bool) -> list[list[Setting]]:
    """Settings that are compared, the one that others are measured by first."""
    pairs, depths, whole, chunk = (8, (18,), 256, 64) if small else (64, (18, 50), 4096, 256)
    stages = [[Setting("resnet", {"depth": depth}, pairs, unit=unit) for unit in (4, 2, 1)] for depth in depths]
    group = {"norm": "group"}
    return [*stages, [Setting("convnet", group, chunk), Setting("convnet", group, whole, chunk=chunk)]]


def build(setting: Setting) -> TrainingModule:
    """The module that is trained."""
    torch.manual_seed(0)
    encoder = ENCODERS.get(setting.encoder)((3, SIDE, SIDE), 0, **setting.options)
    pairings = find_pairings(["rgb"], LOOKS, graph="full", core=None, symmetric=True)
    infonce = lambda: MULTIVIEW.get("infonce")(DIM, pairings, setting.pairs)  # noqa: E731
    if setting.unit is None:
        head = Projector(encoder.spec.dim, layers=2, hidden=encoder.spec.dim, dim=DIM, norm=False)
        branch = Branch(encoder, "rgb", head)
        return Pretraining({"rgb": branch}, {"infonce": infonce()}, {"infonce": 1.0}, crops=LOOKS, pairings=pairings,
                           chunk=setting.chunk)  # fmt: skip
    heads = nn.ModuleList(
        MapProjector(shape, block=True, layers=2, hidden=shape[0], dim=DIM, norm=False)
        for shape in encoder.spec.maps[setting.unit - 1 :]
    )
    return LocalPretraining(Branch(encoder, "rgb", heads), {"infonce": [infonce() for _ in heads]}, {"infonce": 1.0},
                            crops=LOOKS, pairings=pairings, unit=setting.unit)  # fmt: skip


def draw(pairs: int) -> Batch:
    """Noise; what is in a picture costs nothing."""
    random = generator("benchmark")
    inputs = {name_crop("rgb", crop): torch.randn(pairs, 3, SIDE, SIDE, generator=random) for crop in range(LOOKS)}
    return Batch(inputs, torch.arange(pairs), torch.full((pairs,), -1))


def measure_here(setting: Setting) -> tuple[float, float]:
    """Growth of this process's peak memory by one step, in MB, its kernels warm, and milliseconds a pair."""
    module, batch, cpu = build(setting), draw(setting.pairs), torch.device("cpu")
    module(draw(4)).total.backward()
    module.zero_grad()
    forget_peak(cpu)
    before, began = peak_mb(cpu), time.perf_counter()
    module(batch).total.backward()
    return peak_mb(cpu) - before, 1e3 * (time.perf_counter() - began) / setting.pairs


def measure(setting: Setting) -> tuple[float, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, json.dumps(asdict(setting))]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found[0], found[1]


def report(*, small: bool) -> None:
    """The table, ratios first."""
    print(f"two looks at {SIDE} x {SIDE}, float32; {platform.processor() or platform.machine()}, "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip
    print("| step | against | share of memory | times the time of a pair | MB | ms a pair |")
    print("|---|---|---|---|---|---|")
    for settings in groups(small=small):
        turns = [[measure(setting) for setting in settings] for _ in range(1 if small else TURNS)]
        for setting, found in zip(settings, zip(*turns, strict=True), strict=True):
            against = [turn[0] for turn in turns]
            shares = [mine[0] / whole[0] for mine, whole in zip(found, against, strict=True)]
            times = [mine[1] / whole[1] for mine, whole in zip(found, against, strict=True)]
            print(f"| {setting.name} | {settings[0].name} | {_spread(shares)} | {_spread(times)} "
                  f"| {statistics.median(mb for mb, _ in found):.0f} "
                  f"| {statistics.median(ms for _, ms in found):.2f} |", flush=True)  # fmt: skip


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["small"]):
        report(small=len(sys.argv) == 2)
    else:
        print(json.dumps(measure_here(Setting(**json.loads(sys.argv[1])))))
