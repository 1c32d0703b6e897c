"""What kept teacher features save: a transfer that reads them against one that runs its teacher, both ResNet-18.

python benchmarks/features.py [SETTING ...]     minutes a setting on two cores; prints a line for each, the ratio first

Both are `crossmodal transfer` as it is, with shards, two workers, windows, augmentation, CRD, optimiser and metrics, on
the same pairs through the same windows; in turns, so that what else the machine does falls on both. Seconds are of the
steps after the first, in which workers start; CPU seconds are of everything, all processes together. The losses of the
first step are of equal weights; training then magnifies what rounding changed.
"""

import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from crossmodal import SOURCES
from crossmodal.data.writer import write_shards
from crossmodal.models import Card, save_model
from pipelines.__main__ import main

PAIRS, BATCH, EPOCHS, WINDOWS, TURNS = 256, 32, 4, 2, 3
RESNET = {"name": "resnet", "depth": 18}


@dataclass(frozen=True)
class Setting:
    """Sizes in pixels."""

    stored: int  # of the pictures in the shards
    teacher: int  # of what the teacher sees
    student: int  # of what the student sees


SETTINGS = {
    "equal": Setting(64, 64, 64),
    "photographs": Setting(256, 64, 64),
    "published": Setting(256, 224, 64),  # a teacher with published weights sees what it was trained on
}


@dataclass(frozen=True)
class Run:
    """What one transfer cost and gave."""

    seconds: float
    cpu_seconds: float
    losses: list[float]


def prepare(folder: Path, setting: Setting) -> None:
    """Synthetic shards, an untrained teacher, its features, and the config of a transfer."""
    kinds = ("rgb", "depth")
    source = SOURCES.get("synthetic")(train_pairs=PAIRS, test_pairs=0, modalities=kinds, size=setting.stored)
    write_shards(source.pairs("train"), folder / "pairs", fields=source.fields(), classes=source.classes())
    torch.manual_seed(0)
    side = setting.teacher
    card = Card("resnet", {"depth": 18}, (3, side, side), [], "rgb", {"size": side, "fit": "crop"})
    save_model(folder / "teacher", card, card.build(), {})
    shared: dict[str, Any] = {
        "data": str(folder / "pairs"),
        "views": {
            "rgb": {"modality": "rgb", "size": setting.teacher},
            "depth": {"modality": "depth", "size": setting.student},
        },
        "teachers": {"rgb": {"view": "rgb", "weights": str(folder / "teacher")}},
    }
    features = {**shared, "crop": {"windows": WINDOWS}, "output": str(folder / "features")}
    transfer = {
        **shared,
        "student": {"view": "depth", "encoder": RESNET},
        "objectives": {"crd": {}},
        "train": {"epochs": EPOCHS, "batch_size": BATCH, "log_every": 1, "crop": {"windows": WINDOWS}},
    }
    for name, content in (("features", features), ("transfer", transfer)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def transfer(folder: Path, output: str, *words: str) -> Run:
    """One whole transfer."""
    before = cpu_seconds()
    assert main(["transfer", str(folder / "transfer.yaml"), f"output={folder / output}", *words]) == 0
    lines = [json.loads(line) for line in (folder / output / "metrics.jsonl").read_text().splitlines()]
    seconds = sum(BATCH / line["pairs_per_second"] for line in lines[1:])
    return Run(seconds, cpu_seconds() - before, [line["loss"] for line in lines])


def keep(folder: Path, dtype: str) -> str:
    """Extracts the teacher's features; gives what makes a transfer read them."""
    output = folder / f"features_{dtype}"
    assert main(["features", str(folder / "features.yaml"), f"dtype={dtype}", f"output={output}"]) == 0
    return f"teachers.rgb.features={output / 'rgb'}"


def gap(expected: list[float], found: list[float]) -> float:
    """The greatest relative difference."""
    return max(abs(one / other - 1) for one, other in zip(found, expected, strict=True))


def cpu_seconds() -> float:
    """Of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def compare(name: str, setting: Setting) -> str:
    """The line of a setting."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        prepare(folder, setting)
        began = time.monotonic()
        kept = keep(folder, "float16")
        extraction = time.monotonic() - began
        turns = [(transfer(folder, f"running{turn}"), transfer(folder, f"kept{turn}", kept)) for turn in range(TURNS)]
        exact = transfer(folder, "exact", keep(folder, "float32"))
    wall = [running.seconds / kept.seconds for running, kept in turns]
    cpu = [running.cpu_seconds / kept.cpu_seconds for running, kept in turns]
    running, rounded = (run.losses for run in turns[0])
    return (
        f"{statistics.median(wall):.2f} times as fast ({min(wall):.2f} to {max(wall):.2f}), "
        f"{statistics.median(cpu):.2f} times in CPU seconds; {name}: stored {setting.stored}, teacher "
        f"{setting.teacher}, student {setting.student} px; losses apart by {gap(running[:1], rounded[:1]):.1e} of "
        f"their size at the first step and at most {gap(running, rounded):.1e} at all {len(running)}, in float32 by "
        f"{gap(running, exact.losses):.1e}; {statistics.median(run.seconds for run, _ in turns):.1f} against "
        f"{statistics.median(run.seconds for _, run in turns):.1f} s; features of {WINDOWS} windows once: "
        f"{extraction:.1f} s; {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    print("\n".join(compare(name, SETTINGS[name]) for name in sys.argv[1:] or SETTINGS))
