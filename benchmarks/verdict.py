"""How often the verdict of `crossmodal evaluate` is right: true pairs should be a gain, shuffled pairs no gain.

python benchmarks/verdict.py [TRIALS] [OUTPUT]     two minutes a trial on one core; 20 trials by default

Each trial draws 1,500 training pairs and 300 test pairs of rendered scenes anew, trains an RGB teacher with labels, and
two depth students without: one on the pairs as they are, one on pairs whose colour pictures are those of other pairs.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from crossmodal import SOURCES
from crossmodal.data.writer import write_shards
from crossmodal.sources import Pair
from pipelines.__main__ import main as crossmodal

ENCODER = {"name": "convnet", "width": 16, "stages": 3}
VIEWS = {"rgb": {"modality": "rgb", "size": 32, "jitter": 0.0, "grey": 0.0},
         "depth": {"modality": "depth", "size": 32, "max_m": 8.0}}  # fmt: skip
TRAIN = {"batch_size": 32, "lr": 0.003, "workers": 0}


def run(pipeline: str, output: Path, content: dict[str, Any]) -> None:
    """A pipeline with its config in a file beside its output."""
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content | {"output": str(output)}), encoding="utf-8")
    if crossmodal([pipeline, str(path)]):
        raise SystemExit(f"{pipeline} {path} failed")


def shuffled(pairs: Iterator[Pair]) -> Iterator[Pair]:
    """Every pair with the colour picture of the one 37 places on."""
    listed = list(pairs)
    for place, pair in enumerate(listed):
        other = listed[(place + 37) % len(listed)]
        yield replace(pair, members=pair.members | {"rgb.jpg": other.members["rgb.jpg"]})


def answers(folder: Path, seed: int) -> dict[str, str]:
    """The verdict on the students of true and of shuffled pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    source = SOURCES.get("synthetic")(train_pairs=1500, test_pairs=300, size=32, modalities=("rgb", "depth"), seed=seed)
    made = {"true": source.pairs("train"), "shuffled": shuffled(source.pairs("train")), "test": source.pairs("test")}
    for name, pairs in made.items():
        if not (folder / name / "manifest.json").exists():
            write_shards(pairs, folder / name, fields=source.fields(), classes=source.classes())
    run("supervise", folder / "teacher", {
        "data": str(folder / "true"), "views": {"rgb": VIEWS["rgb"]}, "student": {"view": "rgb", "encoder": ENCODER},
        "train": TRAIN | {"epochs": 12},
    })  # fmt: skip
    for name in ("true", "shuffled"):
        run("transfer", folder / f"student_{name}", {
            "data": str(folder / name), "views": VIEWS, "student": {"view": "depth", "encoder": ENCODER}, "seed": seed,
            "teachers": {"rgb": {"view": "rgb", "weights": str(folder / "teacher")}}, "train": TRAIN | {"epochs": 12},
        })  # fmt: skip
    run("evaluate", folder / "evaluation", {
        "data": {"train": str(folder / "true"), "test": str(folder / "test")}, "metrics": {}, "workers": 0,
        "students": {name: [str(folder / f"student_{name}")] for name in ("true", "shuffled")},
        "few_labels": {"labels": [5], "whole": "scratch"},
    })  # fmt: skip
    lines = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))["figures"]["verdict"]
    return {name: next(line for line in lines if f"student {name} " in line) for name in ("true", "shuffled")}


def main() -> None:
    """Prints every verdict, and how many are right."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    output, right = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/bench_verdict"), {"true": 0, "shuffled": 0}
    for seed in range(trials):
        for name, line in answers(output / str(seed), seed).items():
            right[name] += line.startswith("Gain" if name == "true" else "No gain")
            print(f"{seed} {name}: {line}", flush=True)
    print(f"true pairs, gain: {right['true']} of {trials}; shuffled pairs, no gain: {right['shuffled']} of {trials}")


if __name__ == "__main__":
    main()
