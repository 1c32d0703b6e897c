"""Time and memory of a step of `patch` against `fitnet` on the same maps, as a ratio within one run.

python benchmarks/dense.py [TURNS]     half a minute on two cores for 20 turns

Maps of EfficientNet-Lite0 at 192 x 256 pixels, strides 16 and 32, and of a convnet on 96 x 128; 32 pairs. A step is the
loss forward and backward, without the encoders. Memory: what autograd keeps between the two.
"""

import statistics
import sys
import time

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from crossmodal import OBJECTIVES
from crossmodal.encoders import Features, Spec
from crossmodal.objectives import Batch, Objective

PAIRS = 32
STUDENT = Spec(256, ((64, 24, 32), (128, 12, 16), (256, 6, 8)), 0)
TEACHER = Spec(1280, ((112, 12, 16), (1280, 6, 8)), 0)
MAPS = [(1, 0), (2, 1)]


def draw(spec: Spec, *, grad: bool = False) -> Features:
    """Random features."""
    maps = tuple(torch.randn(PAIRS, *size).requires_grad_(grad) for size in spec.maps)
    return Features(torch.randn(PAIRS, spec.dim), maps, None)


def step(objective: Objective, student: Features, teacher: Features, batch: Batch) -> tuple[float, int]:
    """Seconds of a step, and the bytes that autograd keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    began = time.perf_counter()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(student, teacher, batch).loss
    loss.backward()
    return time.perf_counter() - began, sum(kept.values())


def main() -> None:
    """Prints both and their ratio, the median over turns."""
    torch.manual_seed(0)
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    student, teacher = draw(STUDENT, grad=True), draw(TEACHER)
    batch = Batch({}, torch.arange(PAIRS), torch.full((PAIRS,), -1))
    built: dict[str, Objective] = {name: OBJECTIVES.get(name)(STUDENT, TEACHER, PAIRS, maps=MAPS)
                                   for name in ("fitnet", "patch")}  # fmt: skip
    built["patch"].calibrate(teacher)
    built["patch"].finish_calibration()
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(turns + 1):  # the first warms up
        for name, objective in built.items():
            seconds[name].append(step(objective, student, teacher, batch)[0])
    medians = {name: 1000 * statistics.median(each[1:]) for name, each in seconds.items()}
    for name, objective in built.items():
        kept = step(objective, student, teacher, batch)[1] / 2**20
        print(f"{name:8} {medians[name]:8.1f} ms a step, {kept:6.1f} MiB kept for the backward pass")
    print(f"patch / fitnet: {medians['patch'] / medians['fitnet']:.2f} of the time")


if __name__ == "__main__":
    main()
