"""Opening large data sets: the time to the first batch, and the memory of each process.

    python benchmarks/scale.py FOLDER --shards 1000 [--pairs 1000] [--workers 4] [--linked]

Makes FOLDER if there is none: tars of tiny pairs (an 8 x 8 JPEG, label and group). With --linked, all shards are links
to one tar and its index, so that ten million pairs need no disk; every process reads and checks every index all the
same. Prints the time of the manifest, of the first batch (workers included), of the labels of all pairs, and how much
memory each process has taken more than before it opened the data set.
"""

import argparse
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from crossmodal import SOURCES
from crossmodal.data.manifest import MANIFEST, ShardError, read_manifest
from crossmodal.data.order import Plan
from crossmodal.data.reader import PairStream, SampleBatch, open_view, train_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop
from crossmodal.data.writer import write_shards


def make(folder: Path, shards: int, pairs: int, *, linked: bool) -> None:
    """Writes the folder: one real shard, and copies of it under other names."""
    source = SOURCES.get("synthetic")(modalities=("rgb",), train_pairs=100, test_pairs=0, size=8)
    drawn = [*source.pairs("train")]
    made = (replace(drawn[n % 100], key=f"pair_{n:06d}", group=f"room-{n // 50}") for n in range(pairs))
    write_shards(made, folder, fields=source.fields(), classes=source.classes(), pairs_per_shard=pairs)
    first = read_manifest(folder)
    files = [replace(first.shards[0], file=f"{number:06d}.tar") for number in range(shards)]
    for shard in files[1:]:
        for name, kind in ((shard.file, ".tar"), (shard.file.replace(".tar", ".index.npy"), ".index.npy")):
            (os.link if linked else shutil.copyfile)(folder / f"000000{kind}", folder / name)
    labels = {name: count * shards for name, count in first.labels.items()}
    groups = {name: count * shards for name, count in first.groups.items()}
    whole = replace(first, pairs=shards * pairs, shards=files, labels=labels, groups=groups)
    (folder / MANIFEST).write_text(json.dumps(asdict(whole), indent=1))


def own_memory() -> float:
    """The MB that this process alone has, without files and pages it shares with its parent."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class Measured(PairStream):
    """A stream whose workers write down their memory."""

    def __iter__(self) -> Iterator[SampleBatch | ShardError]:
        before = own_memory()
        for part in super().__iter__():
            yield part
            Path(f"/dev/shm/scale-{os.getppid()}-{os.getpid()}").write_text(f"{own_memory() - before}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--linked", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not (asked.folder / MANIFEST).is_file():
        make(asked.folder, asked.shards, asked.pairs, linked=asked.linked)
    before, start, used = own_memory(), time.monotonic(), time.process_time()
    shards = Shards.open(asked.folder)
    views = {"rgb": open_view(shards, "rgb", size=8)}
    opened = time.monotonic() - start
    plan = Plan(len(shards), 256, shard_starts=tuple(shards.starts[:-1].tolist()))
    stream = Measured(shards, views, plan, crop=Crop(), last_step=asked.batches)
    parts = train_parts(stream, workers=asked.workers)
    next(parts)
    first = time.monotonic() - start
    for _ in parts:
        pass
    print(f"{len(shards)} pairs in {len(shards.manifest.shards)} shards, {asked.workers} workers")
    spent = time.process_time() - used + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"open {opened:.2f} s, first batch after {first:.2f} s; CPU of all processes {spent:.2f} s")
    notes = [*Path("/dev/shm").glob(f"scale-{os.getpid()}-*")]
    print(f"memory added: main process {own_memory() - before:.0f} MB, "
          f"workers {max((float(note.read_text()) for note in notes), default=0):.0f} MB")  # fmt: skip
    for note in notes:
        note.unlink()
    start, used = time.monotonic(), time.process_time()
    labels = shards.labels()
    print(f"labels of all pairs: {time.monotonic() - start:.2f} s ({time.process_time() - used:.2f} s of CPU), "
          f"{(labels >= 0).sum()} labelled; memory added: {own_memory() - before:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
