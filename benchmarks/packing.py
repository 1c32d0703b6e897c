"""Packing by several processes: how much sooner they are done, by the processor time of the slowest.

    python benchmarks/packing.py [--pairs 2000] [--size 128] [--workers 2]

Packs synthetic pairs (colour, depth, sound) by one process and by several. On a machine that does other work at the
same time, seconds say little. So it also prints what the speed would be with a core for each process: the processor
time of one process alone over that of the busiest of several, with that of the process that starts and joins them.
"""

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from crossmodal import SOURCES
from crossmodal.data import processes
from crossmodal.data.joining import Packing, join_parts
from crossmodal.data.writer import write_part


def spent(who: int = resource.RUSAGE_SELF) -> float:
    """Processor seconds of this process, or of its children that have ended."""
    return sum(resource.getrusage(who)[:2])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    source = SOURCES.get("synthetic")(train_pairs=asked.pairs, test_pairs=0, size=asked.size)
    numbered = partial(source.numbered, "train")
    with tempfile.TemporaryDirectory() as name:
        one, several, times = (Path(name, kind) for kind in ("one", "several", "times"))
        times.mkdir()
        make = lambda folder: Packing(folder, source.fields(), source.classes(), 100)  # noqa: E731
        start, used = time.monotonic(), spent()
        write_part(numbered, make(one))
        join_parts(make(one))
        alone, alone_used = time.monotonic() - start, spent() - used

        def noted(*given: object, **options: object) -> int:
            before = spent()
            pairs = write_part(*given, **options)
            (times / str(options["part"])).write_text(str(spent() - before))
            return pairs

        processes.write_part = noted
        start, used = time.monotonic(), spent()
        processes.write_by(asked.workers, numbered, make(several))
        join_parts(make(several))
        shared, first = time.monotonic() - start, spent() - used
        busiest = max(float(path.read_text()) for path in times.iterdir())
        equal = all(path.read_bytes() == (several / path.name).read_bytes() for path in one.iterdir())
    print(f"{asked.pairs} pairs, same bytes: {equal}")
    print(f"1 process: {alone:.1f} s, {alone_used:.1f} s of CPU")
    print(f"{asked.workers} processes: {shared:.1f} s, CPU {busiest:.1f} s of the busiest, {first:.1f} s of the first")
    print(f"{alone / shared:.2f} times as fast here, {alone_used / (busiest + first):.2f} times with a core for each")


if __name__ == "__main__":
    main()
