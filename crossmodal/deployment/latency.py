"""Milliseconds that a graph takes for a batch: in eager mode, compiled, and as an exported file."""

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from crossmodal.deployment.check import batches
from crossmodal.deployment.graph import Graph
from crossmodal.deployment.targets import Run

WARM_UP = 3  # runs that are not counted
RUNS = (10, 200)  # least and most runs that are counted
SECONDS = 2.0  # after which no further run begins, once there are enough


@dataclass(frozen=True)
class Latency:
    """How long a batch takes, in milliseconds."""

    way: str  # how it is computed
    rows: int  # size of the batch
    median_ms: float
    low_ms: float  # a tenth of the runs takes less
    high_ms: float  # a tenth of the runs takes more
    problem: str = ""  # why it could not be computed so; then the numbers mean nothing


def measure(graph: Graph, run: Run, way: str, sizes: tuple[int, ...] = (1, 32)) -> Iterator[Latency]:
    """The latency of each way and size, from the input of the graph to its outputs, on torch's number of threads.

    Args:
        graph: on the CPU.
        run: the exported file.
        way: name of the exported file's runtime.
        sizes: sizes of the batch.
    """
    compiled = torch.compile(graph, dynamic=False)
    scenes = batches(graph)["scenes"]
    for name, function in (("eager", graph), ("torch.compile", compiled), (way, run)):
        for rows in sizes:
            batch = scenes[torch.arange(rows) % len(scenes)]
            try:
                yield _measure(function, batch, name)
            except Exception as error:  # torch.compile needs a compiler of C++, and raises errors of many kinds
                yield Latency(name, rows, 0.0, 0.0, 0.0, str(error).strip().partition("\n")[0])


def _measure(run: Run, batch: Shaped[Tensor, "batch *shape"], way: str) -> Latency:
    taken: list[float] = []
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(WARM_UP):
            run(batch)
        began = time.perf_counter()
        while len(taken) < RUNS[0] or (len(taken) < RUNS[1] and time.perf_counter() - began < SECONDS):
            start = time.perf_counter()
            run(batch)
            taken.append(1000 * (time.perf_counter() - start))
    low, median, high = torch.tensor(taken).quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    return Latency(way, len(batch), median, low, high)
