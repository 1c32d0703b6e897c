"""What the training loop costs: the whole of it against bare compute on tensors in memory, ResNet-18 at 64 x 64.

python benchmarks/loop.py     about a minute on two cores; prints one line, the ratio first

Whole: `crossmodal transfer` with shards, two workers, windows, augmentation, teacher, CRD, optimiser and metrics.
Bare: teacher forward, student forward and backward, CRD and optimiser on one batch in memory. Both in turns.
"""

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import yaml

from crossmodal import ENCODERS, OBJECTIVES, SOURCES
from crossmodal.data.writer import write_shards
from crossmodal.models import Card, save_model
from crossmodal.modules.transfer import Term, Transfer
from crossmodal.objectives import Batch
from pipelines.__main__ import main

PAIRS, BATCH, EPOCHS, TURNS = 512, 64, 2, 3
RESNET = {"name": "resnet", "depth": 18}


def prepare(folder: Path) -> Path:
    """Synthetic shards, an untrained ResNet-18 as the teacher, and the config of a transfer."""
    source = SOURCES.get("synthetic")(train_pairs=PAIRS, test_pairs=1, modalities=("rgb", "depth"))
    write_shards(source.pairs("train"), folder / "pairs", fields=source.fields(), classes=source.classes())
    card = Card("resnet", {"depth": 18}, (3, 64, 64), [], "rgb", {"size": 64, "fit": "crop"})
    save_model(folder / "teacher", card, card.build(), {})
    config = {
        "data": str(folder / "pairs"),
        "views": {"rgb": {"modality": "rgb", "size": 64}, "depth": {"modality": "depth", "size": 64}},
        "teachers": {"rgb": {"view": "rgb", "weights": str(folder / "teacher")}},
        "student": {"view": "depth", "encoder": RESNET},
        "objectives": {"crd": {}},
        "train": {"epochs": EPOCHS, "batch_size": BATCH, "log_every": 4},
    }
    (folder / "transfer.yaml").write_text(yaml.safe_dump(config))
    return folder / "transfer.yaml"


def whole(config: Path, output: Path) -> float:
    """Pairs a second of the whole loop, without its first epoch's half, in which the workers start."""
    assert main(["transfer", str(config), f"output={output}"]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return statistics.harmonic_mean([line["pairs_per_second"] for line in lines[1:]])


def bare() -> float:
    """Pairs a second of compute alone."""
    torch.manual_seed(0)
    teacher = ENCODERS.get("resnet")((3, 64, 64), 0, depth=18).eval().requires_grad_(False)
    student = ENCODERS.get("resnet")((1, 64, 64), 0, depth=18)
    module = Transfer(
        student, "depth", {"crd": Term(OBJECTIVES.get("crd")(student.spec, teacher.spec, PAIRS), 1.0, "rgb")}
    )
    optimiser = torch.optim.AdamW(module.parameters(), fused=True)
    inputs = {"rgb": torch.randn(BATCH, 3, 64, 64), "depth": torch.randn(BATCH, 1, 64, 64)}
    batch = Batch(inputs, torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64))
    steps = EPOCHS * PAIRS // BATCH
    for step in range(steps + 4):
        if step == 4:
            began = time.monotonic()
        with torch.no_grad():
            features = teacher(inputs["rgb"])
        losses = module(batch, {"rgb": features})
        losses.total.backward()
        optimiser.step()
        optimiser.zero_grad()
        module.remember([losses])
    return steps * BATCH / (time.monotonic() - began)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        config = prepare(Path(name))
        turns = [(whole(config, Path(name) / f"run{turn}"), bare()) for turn in range(TURNS)]
    ratios = [loop / compute for loop, compute in turns]
    print(
        f"{statistics.median(ratios):.3f} of bare compute ({min(ratios):.3f} to {max(ratios):.3f}); "
        f"{statistics.median(loop for loop, _ in turns):.1f} against {statistics.median(b for _, b in turns):.1f} "
        f"pairs/s; {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )
