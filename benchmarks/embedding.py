"""Throughput of `crossmodal embed` as a share of a bare loop over decoded tensors, and the start of a new process.

Shares by the clock depend on the cores that decode beside the encoder; the share of processor time is what the main
process would reach with enough of them.

    python benchmarks/embedding.py [--pairs 2048] [--size 64] [--encoder convnet]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from crossmodal import SOURCES
from crossmodal.data.inputs import find_inputs
from crossmodal.data.samples import load_samples
from crossmodal.data.writer import write_shards
from crossmodal.models import Card, load_model, save_model
from modalities import MODALITIES


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of this process's processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def measure() -> None:
    """Reads the arguments and prints a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--encoder", default="convnet")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = SOURCES.get("synthetic")(train_pairs=asked.pairs, test_pairs=2, size=asked.size, modalities=("depth",))
        write_shards(source.pairs("train"), folder / "shards", fields=source.fields(), classes=source.classes())
        options = {"size": asked.size, "max_m": 8.0}
        card = Card(asked.encoder, {}, MODALITIES.get("depth")(**options).shape, [], "depth", options)
        save_model(folder / "model", card, card.build(), {})
        code = "import crossmodal; crossmodal.load('model', device='cpu').embed(torch.ones(9, 9))"
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import torch; {code}"], cwd=folder, check=True)
        print(f"new process to its first vector: {time.perf_counter() - began:.2f} s")
        compare(folder)


def compare(folder: Path) -> None:
    """Prints the shares."""
    model = load_model(folder / "model")
    inputs = find_inputs([str(folder / "shards")], model.modality, model.card.modality, model.card.modality_options)
    (samples,) = inputs.samples
    decoded = [part.adapted for part in load_samples(samples)]

    def encode(batches: object) -> None:
        with torch.inference_mode():
            for batch in batches:  # type: ignore[attr-defined]
                model.encoder(model.modality.normalise(batch)).embedding.float().cpu().numpy()

    encode(decoded)
    bare = [min(times) for times in zip(*(timed(lambda: encode(decoded)) for _ in range(3)), strict=True)]
    print(
        f"bare loop: {len(samples) / bare[0]:.0f} samples a second, {1e3 * bare[1] / len(samples):.2f} ms of processor"
    )
    for workers in range(min(4, os.cpu_count() or 1) + 1):
        loaded = load_samples(samples, workers=workers, with_facts=True)
        wall, processor = timed(lambda loaded=loaded: encode(part.adapted for part in loaded))  # type: ignore[misc]
        by_clock, by_processor = bare[0] / wall, bare[1] / processor
        print(f"{workers} workers: {by_clock:.0%} of the bare loop by the clock, {by_processor:.0%} by processor time")


if __name__ == "__main__":
    measure()
