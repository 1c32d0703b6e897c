"""InfoNCE and its supervised form against lightly and pytorch-metric-learning: time and memory, forward and backward.

python benchmarks/contrast.py     three minutes on two cores; pip install lightly pytorch-metric-learning beforehand

4,096 rows of 128 numbers are two views of 2,048 samples (NT-Xent of SimCLR), of 100 classes (the supervised form). All
take turns in one process; memory is the growth of the peak in a process of its own. What is not installed is left out.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmodal.contrast.losses import infonce
from crossmodal.contrast.pool import PairIds, Relation
from crossmodal.contrast.scores import Candidates, contrast
from modalities.common.random import generator
from pipelines.training.memory import forget_peak, peak_mb

ROWS, DIM, CLASSES, TEMPERATURE, TURNS = 4096, 128, 100, 0.1, 7
Loss = Callable[[Tensor, Tensor], Tensor]  # of unit rows, second views after first ones, and labels of the samples


def ours(rows: Tensor, label: Tensor, *, together: bool) -> Tensor:
    """Each row against all others: its other view is the match; with labels, its class is too."""
    pairs = len(rows) // 2
    known = PairIds(torch.arange(pairs).repeat(2), label.repeat(2))
    relate = Relation(together, together).masks(known, index=known.index[None], key=known.key[None])
    candidates = Candidates(rows, relate, rows.roll(pairs, 0))
    scale = torch.tensor(1 / TEMPERATURE)
    return contrast(infonce, rows, candidates, scale=scale, bias=torch.zeros(())) / len(rows)


def lightly(rows: Tensor, label: Tensor) -> Tensor:
    """NT-Xent of lightly."""
    return import_module("lightly.loss").NTXentLoss(temperature=TEMPERATURE)(*rows.chunk(2))


def metric_learning(rows: Tensor, label: Tensor, *, name: str) -> Tensor:
    """A loss of pytorch-metric-learning; where classes do not count, each sample is one."""
    losses = import_module("pytorch_metric_learning.losses")
    classes = label if name == "SupConLoss" else torch.arange(len(label))
    return getattr(losses, name)(temperature=TEMPERATURE)(rows, classes.repeat(2))


FORMS: dict[str, dict[str, Loss]] = {
    "NT-Xent": {
        "ours": lambda rows, label: ours(rows, label, together=False),
        "lightly": lightly,
        "pytorch_metric_learning": lambda rows, label: metric_learning(rows, label, name="NTXentLoss"),
    },
    "supervised": {
        "ours": lambda rows, label: ours(rows, label, together=True),
        "pytorch_metric_learning": lambda rows, label: metric_learning(rows, label, name="SupConLoss"),
    },
}


def step(loss: Loss) -> tuple[float, Tensor]:
    """Forward and backward; the loss and its gradient."""
    random = generator("benchmark")
    label = torch.randint(CLASSES, (ROWS // 2,), generator=random)
    rows = F.normalize(torch.randn(ROWS, DIM, generator=random), dim=1).requires_grad_()
    value = loss(rows, label)
    value.backward()
    assert rows.grad is not None
    return value.item(), rows.grad


def fits(loss: Loss) -> bool:
    """Whether a step can be taken at all."""
    try:
        step(loss)
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        return False
    return True


def time_turns(losses: dict[str, Loss]) -> dict[str, list[float]]:
    """Seconds of a step of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(TURNS + 1):
        for name, loss in losses.items():
            began = time.perf_counter()
            step(loss)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def measure_memory(form: str, name: str) -> float:
    """Growth of the peak memory of a process of its own, MB."""
    words = [sys.executable, __file__, form, name]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def peak_grown_mb(form: str, name: str) -> float:
    """Growth of this process's peak memory by one step, its imports and kernels warm."""
    loss, cpu = FORMS[form][name], torch.device("cpu")
    loss(F.normalize(torch.randn(8, DIM), dim=1), torch.arange(4))
    forget_peak(cpu)
    before = peak_mb(cpu)
    step(loss)
    return peak_mb(cpu) - before


def report() -> None:
    """The table, ratios first."""
    print(f"{ROWS} rows, d={DIM}, float32; {platform.processor() or platform.machine()}, "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip
    print("| form | against | times as fast | ms | theirs, ms | share of memory | MB | theirs, MB | values differ by |")
    print("|---|---|---|---|---|---|---|---|---|")
    for form, losses in FORMS.items():
        there = {name: loss for name, loss in losses.items() if name == "ours" or find_spec(name)}
        for name in [name for name, loss in there.items() if not fits(loss)]:
            del there[name]
            print(f"| {form} | {name} | does not fit in this machine's memory |")
        seconds, value = time_turns(there), step(losses["ours"])[0]
        room = {name: measure_memory(form, name) for name in there}
        for name in list(there)[1:]:
            ratios = [other / own for other, own in zip(seconds[name], seconds["ours"], strict=True)]
            print(f"| {form} | {name} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
                  f"| {1e3 * statistics.median(seconds['ours']):.0f} | {1e3 * statistics.median(seconds[name]):.0f} "
                  f"| {room['ours'] / room[name]:.2f} | {room['ours']:.0f} | {room[name]:.0f} "
                  f"| {abs(step(there[name])[0] - value):.1e} |", flush=True)  # fmt: skip
        if len(there) == 1:
            print(f"| {form} | nothing to compare with is installed |")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(peak_grown_mb(*sys.argv[1:]))
    else:
        report()
