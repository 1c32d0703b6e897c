"""Print the sha256 of the weights and metrics of tiny runs: versions that compute the same print the same.

Weights are hashed without their names, metrics as a sorted list of numbers without durations, so that a renaming does
not count as a change. One thread, no GPU.

    python benchmarks/golden.py [--runs transfer,evaluate]
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
import yaml
from safetensors.torch import load_file

from pipelines.__main__ import main

DURATIONS = re.compile(r"seconds|per_second|per_step|memory|written|peak|environment|\.(html|md|json)$")
ENCODER = {"name": "convnet", "width": 8, "stages": 3}
VIEWS = {
    "rgb": {"modality": "rgb", "size": 32},
    "depth": {"modality": "depth", "size": 32, "max_m": 8.0, "drift": 0.3, "holes": 2},
}
TRAIN = {"batch_size": 16, "epochs": 2, "workers": 0, "log_every": 1, "crop": {"scale": [0.5, 1.0]}}


def configs(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """The runs in their order: pipeline and config."""
    train, test, teacher = f"{folder}/shards/train", f"{folder}/shards/test", f"{folder}/supervise"
    rgb, depth = {"view": "rgb", "encoder": ENCODER}, {"view": "depth", "encoder": ENCODER}
    transfer = {
        "data": train, "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": teacher}}, "student": depth,
        "train": TRAIN,
    }  # fmt: skip
    pretrain = {"data": train, "views": VIEWS, "encoders": {"rgb": rgb, "depth": depth}, "train": TRAIN,
                "monitor": {"pairs": 32}}  # fmt: skip
    one = {**pretrain, "encoders": {"depth": depth}}
    few = {"labels": [1, 2], "steps": 4, "batch_size": 16, "epochs": 1}
    judge = {"data": {"train": train, "test": test}, "seeds": 2, "few_labels": few, "workers": 0}
    crd = {"negatives": {"count": 8}}
    return {
        "shards": ("shards", {"source": {"name": "synthetic", "train_pairs": 160, "test_pairs": 80, "size": 40},
                              "pairs_per_shard": 32}),
        "supervise": ("supervise", {"data": train, "views": {"rgb": VIEWS["rgb"]}, "student": rgb, "train": TRAIN}),
        "features": ("features", {"data": train, "views": VIEWS, "teachers": transfer["teachers"], "workers": 0,
                                  "crop": {"windows": 2, "scale": [0.5, 1.0]}}),
        "crd": ("transfer", {**transfer, "objectives": {"crd": crd}}),
        "ab_kd": ("transfer", {**transfer, "objectives": {"ab": {}, "kd": {}, "cross_entropy": {}},
                               "prepare": {"epochs": 1}}),
        "many": ("transfer", {**transfer, "objectives": {"infonce": {}, "sigmoid": {}, "rkd": {}, "nst": {}, "vid": {},
                                                         "seed": {}}, "train": {**TRAIN, "ema": 0.9}}),
        "simclr": ("pretrain", {**one, "objectives": {"infonce": {"temperature": 0.1}}}),
        "moco": ("pretrain", {**one, "momentum": {"decay": 0.9}, "symmetric": False, "objectives": {
            "infonce": {"negatives": {"source": "queue", "count": 64}, "every_view": False}}}),
        "loco": ("pretrain", {**one, "gradients": {"unit": 2}, "objectives": {"infonce": {"temperature": 0.1}}}),
        "cmc": ("pretrain", {**pretrain, "objectives": {"cacr": {}}}),
        "certify": ("certify", {"data": train, "views": {"rgb": VIEWS["rgb"]}, "encoder": {
            "view": "rgb", "encoder": {**ENCODER, "norm": "none"}}, "test": test, "tuples": {"negatives": 1},
            "trade_offs": [100.0], "validation": 0.1, "certificate": {"draws": 2, "at_once": 1},
            "train": {**TRAIN, "weight_decay": 0}}),
        "evaluate": ("evaluate", {**judge, "students": {"crd": [f"{folder}/crd"], "ab_kd": [f"{folder}/ab_kd"]}}),
        "compare": ("compare", {"transfer": transfer, "evaluate": {
            "data": {"test": test}, "few_labels": None, "workers": 0}, "objectives": {"kd": {"crd": crd}},
            "metrics": ["knn"], "seeds": [0], "search": None}),
    }  # fmt: skip


def digests(folder: Path) -> tuple[str, str]:
    """Of all weights and of all metrics below a run's folder."""
    weights, metrics = [], []
    for path in sorted(folder.rglob("*")):
        if "checkpoints" in path.parts:
            continue
        if path.suffix == ".safetensors":
            weights += [f"{list(tensor.shape)} {_sha(tensor)}" for tensor in load_file(path).values()]
        elif path.suffix == ".tar":
            weights.append(hashlib.sha256(path.read_bytes()).hexdigest())
        elif path.name in ("results.json", "report.json"):
            metrics += _numbers(json.loads(path.read_text()))
        elif path.name == "metrics.jsonl":
            metrics += [number for line in path.read_text().splitlines() for number in _numbers(json.loads(line))]
    return _join(weights), _join(metrics)


def _sha(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _join(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16] if lines else "-" * 16


def _numbers(value: Any, key: str = "") -> Iterator[str]:
    if DURATIONS.search(key):
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield repr(float(value))
    elif isinstance(value, dict | list):
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(child, str(name))


class Plain(yaml.SafeDumper):
    """Writes equal mappings out again."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never an alias."""
        return True


def measure() -> int:
    """Reads the arguments and prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", help="names of the runs that are wanted; all unless given")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs; by default they are removed")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        for name, (pipeline, content) in configs(folder).items():
            (folder / f"{name}.yaml").write_text(yaml.dump(content, Dumper=Plain))
            out = os.dup(1)
            log = os.open(folder / f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1)
            code = main([pipeline, str(folder / f"{name}.yaml"), f"output={folder / name}"])
            sys.stdout.flush()
            os.dup2(out, 1)
            if code:
                return code
            if not asked.runs or name in asked.runs.split(","):
                print(f"{name:<10} weights {digests(folder / name)[0]} metrics {digests(folder / name)[1]}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(measure())
