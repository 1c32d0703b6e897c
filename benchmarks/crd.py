"""CRD against the published code: time and memory of a step, and the same numbers from the same draws.

python benchmarks/crd.py [CHECKOUT]                three minutes on two cores; 50,000 pairs, then ImageNet's 1,281,167
python benchmarks/crd.py [CHECKOUT] --device cuda  the same on a GPU
python benchmarks/crd.py CHECKOUT --golden FILE    writes what tests compare `compat: repdistiller` with

CHECKOUT is a clone of https://github.com/HobbitLong/RepDistiller. Without one, the plain gather form of this file
stands in for it, and the table says so. A step is forward, backward and the banks' update at B = 64, K = 16,384, d =
128; the negatives of the published form are drawn beforehand, ours are drawn within the step. All take turns in one
process; memory is the growth of the peak over what was there after a first step (on the CPU each in a process of its
own). On a GPU the table also says which part of a step is the least that reading the banks' rows takes, forward and
backward, on both sides, at the speed of a copy within the device.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from crossmodal import OBJECTIVES
from crossmodal.contrast.bank import draw_negatives
from crossmodal.contrast.options import Negatives
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective
from modalities.common.random import generator
from pipelines.training.memory import forget_peak, peak_mb

BATCH, NEGATIVES, WIDTH = 64, 16_384, 256  # of the networks' embeddings; the banks have 128 numbers a row
SIZES = (50_000, 1_281_167)  # pairs: CIFAR-100's, ImageNet's
GOLDEN = (300, 40)  # pairs and negatives of what tests compare with
OURS: dict[str, dict[str, Any]] = {
    "the same draws": {"compat": "repdistiller"},
    "a draw for each pair": {"directions": "both", "negatives": Negatives(draw="sample")},
    "a draw shared by the batch": {"directions": "both"},
    "shared, one direction": {},
}


@dataclass(frozen=True)
class Bench:
    """What is compared with, and where."""

    checkout: Path | None
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        """Whether steps are only queued until one waits for them."""
        return self.device.type == "cuda"


class Gathered(nn.Module):
    """The published arithmetic, spelt out: rows gathered for every anchor, exponentials, Z of the first batch."""

    def __init__(self, pairs: int, width: int, negatives: int, device: torch.device) -> None:
        super().__init__()
        self.embed_s, self.embed_t = (nn.ModuleDict({"linear": nn.Linear(width, 128)}) for _ in range(2))
        banks = {f"memory_v{side}": torch.zeros(pairs, 128, device=device) for side in (1, 2)}
        self.contrast = SimpleNamespace(**banks)
        self.noise, self.z = negatives / pairs, [torch.tensor(-1.0, device=device)] * 2

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, picked: Tensor) -> Tensor:
        """The loss; the banks are moved at once."""
        embed = lambda head, item: nn.functional.normalize(head["linear"](item), dim=1)  # noqa: E731
        live = [embed(self.embed_s, student), embed(self.embed_t, teacher)]
        banks, total = (self.contrast.memory_v1, self.contrast.memory_v2), 0.0
        for side in (0, 1):
            rows = banks[1 - side][picked]
            scores = (torch.einsum("bkd,bd->bk", rows, live[side]) / 0.07).exp()
            if self.z[side] < 0:
                self.z[side] = scores.detach().mean() * len(banks[side])
            ratio = scores / self.z[side]
            chance = ratio / (ratio + self.noise + 1e-7)
            rest = self.noise / (ratio[:, 1:] + self.noise + 1e-7)
            total = total - (chance[:, 0].log().sum() + rest.log().sum()) / len(student)
        for bank, rows in zip(banks, live, strict=True):
            bank[index] = nn.functional.normalize(bank[index] + rows.detach(), dim=1)
        return total


@contextmanager
def published_code(bench: Bench) -> Iterator[Any]:
    """Its CRDLoss, which calls .cuda() at construction."""
    sys.path.insert(0, str(bench.checkout))
    here = mock.patch.object(Tensor, "cuda", lambda item: item), mock.patch("torch.cuda.LongTensor", torch.LongTensor)
    stay, ints = (nullcontext(), nullcontext()) if bench.on_gpu else here
    with stay, ints:
        from crd.criterion import CRDLoss  # type: ignore[import-not-found]

        yield CRDLoss


def build_theirs(bench: Bench, pairs: int, negatives: int) -> nn.Module:
    """The published criterion, or what stands in for it."""
    if bench.checkout is None:
        return Gathered(pairs, WIDTH, negatives, bench.device).to(bench.device)
    sizes = {"s_dim": WIDTH, "t_dim": WIDTH, "feat_dim": 128, "n_data": pairs}
    with published_code(bench) as kind:
        return kind(SimpleNamespace(**sizes, nce_k=negatives, nce_t=0.07, nce_m=0.5)).to(bench.device)


def build_ours(bench: Bench, which: str, pairs: int, negatives: int) -> Objective:
    """Our objective in one of its forms, as it is after the first pass, when the banks are full."""
    options = dict(OURS[which])
    given = options.pop("negatives", Negatives())
    options["negatives"] = Negatives(count=negatives, draw=given.draw)
    ours = OBJECTIVES.get("crd")(Spec(WIDTH, (), 0), Spec(WIDTH, (), 0), pairs, **options).to(bench.device)
    for name, item in ours.memory().items():
        if name.endswith("_written"):
            item.fill_(True)
        elif name.endswith("_due"):
            item.zero_()
        elif "compat" not in options and name.endswith("_rows"):
            item.normal_().div_(item.norm(dim=1, keepdim=True))
    return ours


def draw_steps(bench: Bench, pairs: int, steps: int) -> Iterator[tuple[Tensor, Tensor, Batch]]:
    """Embeddings and numbers of some batches, the same every time."""
    random = generator("benchmark")
    for step in range(steps):
        student, teacher = (torch.randn(BATCH, WIDTH, generator=random).to(bench.device) for _ in range(2))
        index = torch.randint(pairs, (BATCH * 2,), generator=random).unique()
        index = index[torch.randperm(len(index), generator=random)][:BATCH].to(bench.device)
        yield student, teacher, Batch({}, index, torch.zeros_like(index), step)


def pick(batch: Batch, pairs: int, negatives: int) -> Tensor:
    """The numbers our objective draws, as the published criterion wants them: each pair's own first."""
    drawn = draw_negatives(batch.seed, batch.index, pairs, negatives, own=True)
    return torch.cat([batch.index[:, None], drawn], dim=1)


def step_theirs(model: nn.Module, student: Tensor, teacher: Tensor, batch: Batch, picked: Tensor) -> Tensor:
    """A step of theirs; gives the loss."""
    with redirect_stdout(io.StringIO()):  # the published code tells Z
        loss = model(student, teacher, batch.index, picked)
    loss.sum().backward()
    return loss.detach().sum()


def step_ours(model: Objective, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
    """A step of ours; gives the loss."""
    outcome = model(Features(student, (), None), Features(teacher, (), None), batch)
    outcome.loss.backward()
    model.remember(*outcome.memo)
    return outcome.loss.detach()


def stepper(bench: Bench, which: str, pairs: int) -> Callable[[int], None]:
    """A function that takes the numbered step of one contender; only the step itself is its cost."""
    theirs = which == "theirs"
    model = build_theirs(bench, pairs, NEGATIVES) if theirs else build_ours(bench, which, pairs, NEGATIVES)
    steps = list(draw_steps(bench, pairs, 8))
    picked = [pick(batch, pairs, NEGATIVES) for _, _, batch in steps] if theirs else []

    def take(number: int) -> None:
        student, teacher, batch = steps[number % len(steps)]
        student = student.requires_grad_()
        if theirs:
            step_theirs(model, student, teacher, batch, picked[number % len(steps)])
        else:
            step_ours(model, student, teacher, batch)

    return take


# --- the same numbers ---


def twins(bench: Bench, pairs: int, negatives: int) -> tuple[nn.Module, Objective]:
    """Theirs and ours with the same heads and banks, in float64."""
    torch.manual_seed(0)
    ours = build_ours(bench, "the same draws", pairs, negatives).double()
    theirs = build_theirs(bench, pairs, negatives).double()
    for head, other in ((ours.sides.heads.student, theirs.embed_s), (ours.sides.heads.teacher, theirs.embed_t)):
        linear = other["linear"] if bench.checkout is None else other.linear
        linear.load_state_dict(head.state_dict())
    for side, name in (("student", "memory_v1"), ("teacher", "memory_v2")):
        setattr(theirs.contrast, name, ours.memory()[f"{side}_rows"].clone())
    return theirs, ours


def follow(bench: Bench, model: nn.Module, pairs: int, negatives: int, steps: int) -> list[dict[str, Tensor]]:
    """Loss of each step and its gradients by both embeddings; the banks are moved between them."""
    found = []
    for student, teacher, batch in draw_steps(bench, pairs, steps):
        given = [item.double().requires_grad_() for item in (student, teacher)]
        if isinstance(model, Objective):
            loss = step_ours(model, *given, batch)
        else:
            loss = step_theirs(model, *given, batch, pick(batch, pairs, negatives))
        found.append({"loss": loss, "student": given[0].grad, "teacher": given[1].grad})
    return found


def compare(bench: Bench) -> dict[str, float]:
    """The greatest relative differences over some steps."""
    size = (2_000, 512)
    expected, found = (follow(bench, model, *size, 4) for model in twins(bench, *size))
    apart = lambda ours, theirs: float((ours - theirs).norm() / theirs.norm())  # noqa: E731
    steps = [*zip(found, expected, strict=True)]
    return {name: max(apart(ours[name], theirs[name]) for ours, theirs in steps) for name in found[0]}


def golden(bench: Bench, model: nn.Module) -> list[dict[str, Any]]:
    """Figures of a few small steps, to be kept in a file."""
    figures = []
    for step in follow(bench, model, *GOLDEN, 3):
        norms = {f"{side}_norm": step[side].norm().item() for side in ("student", "teacher")}
        first = {f"{side}_first": step[side][0, :4].tolist() for side in ("student", "teacher")}
        figures.append({"loss": step["loss"].item(), **norms, **first})
    return figures


# --- time and memory ---


def time_turns(bench: Bench, pairs: int, turns: int) -> dict[str, list[float]]:
    """Seconds a step of each contender, in turns."""
    contenders = {which: stepper(bench, which, pairs) for which in ("theirs", *OURS)}
    wait: Callable[[], None] = torch.cuda.synchronize if bench.on_gpu else lambda: None
    seconds: dict[str, list[float]] = {which: [] for which in contenders}
    for turn in range(turns + 1):
        for which, take in contenders.items():
            repeats = 8 if bench.on_gpu else 1 if which == "theirs" else 4
            wait()
            began = time.perf_counter()
            for _ in range(repeats):
                take(turn)
            wait()
            if turn:  # the first one warms up
                seconds[which].append((time.perf_counter() - began) / repeats)
    return seconds


def peak_grown_mb(bench: Bench, which: str, pairs: int) -> float:
    """Growth of the peak memory of this process, or of the GPU, during the second and third step.

    The first loads libraries.
    """
    take = stepper(bench, which, pairs)
    take(0)
    forget_peak(bench.device)
    before = peak_mb(bench.device)
    take(1)
    take(2)
    return peak_mb(bench.device) - before


def measure_memory(bench: Bench, which: str, pairs: int) -> float:
    """The same, on the CPU in a process of its own, which gives back at once what it frees."""
    if bench.on_gpu:
        return peak_grown_mb(bench, which, pairs)
    words = [*([str(bench.checkout)] if bench.checkout else []), "--memory", which, "--pairs", str(pairs)]
    given = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True, env=given)
    return float(done.stdout)


def least_seconds(bench: Bench, which: str, pairs: int) -> float | None:
    """What reading the rows twice on each side takes at the speed of a copy within the GPU; None on the CPU."""
    if not bench.on_gpu:
        return None
    source, target = (torch.empty(1 << 28, device=bench.device) for _ in range(2))  # 1 GiB each
    for turn in range(11):
        if turn == 1:  # the first one warms up
            torch.cuda.synchronize()
            began = time.perf_counter()
        target.copy_(source)
    torch.cuda.synchronize()
    speed = 10 * 2 * source.nbytes / (time.perf_counter() - began)
    rows = NEGATIVES if "shared" in which else min(pairs, BATCH * NEGATIVES)
    sides = 1 if "one direction" in which else 2
    return rows * 128 * 4 * 2 * sides / speed


def report(bench: Bench, turns: int) -> None:
    """The table, ratios first."""
    name = "published" if bench.checkout else "plain gather form (no checkout given)"
    where = torch.cuda.get_device_name() if bench.on_gpu else platform.processor() or platform.machine()
    machine = f"{where}, {torch.get_num_threads()} threads"
    print(f"CRD, B={BATCH}, K={NEGATIVES:,}, d=128, float32, against {name}; {machine}")
    apart = ", ".join(f"{name} {value:.1e}" for name, value in compare(bench).items())
    print(f"float64, 4 steps, the same draws, greatest relative difference of loss and gradients: {apart}\n")
    heads = "pairs", "negatives", "times as fast", "ms a step", "theirs, ms", "peak memory", "MB", "theirs, MB"
    print(f"| {' | '.join(heads)} | of the floor |\n{'|---' * 9}|")
    for pairs in SIZES:
        seconds = time_turns(bench, pairs, turns)
        room = {which: measure_memory(bench, which, pairs) for which in seconds}
        for which in OURS:
            ratios = [theirs / own for theirs, own in zip(seconds["theirs"], seconds[which], strict=True)]
            own, least = statistics.median(seconds[which]), least_seconds(bench, which, pairs)
            print(f"| {pairs:,} | {which} | {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) "
                  f"| {1e3 * own:.2f} | {1e3 * statistics.median(seconds['theirs']):.1f} "
                  f"| 1/{room['theirs'] / room[which]:.0f} | {room[which]:.0f} | {room['theirs']:.0f} "
                  f"| {'' if least is None else f'{100 * least / own:.1f} %'} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--memory", choices=("theirs", *OURS))
    parser.add_argument("--pairs", type=int)
    options = parser.parse_args()
    asked = Bench(options.checkout, options.device)
    if options.memory:
        print(peak_grown_mb(asked, options.memory, options.pairs))
    elif options.golden:
        assert options.checkout is not None, "golden values come from a checkout"
        figures = golden(asked, twins(asked, *GOLDEN)[0])
        options.golden.write_text(json.dumps(figures, indent=1) + "\n")
    else:
        report(asked, options.turns)
