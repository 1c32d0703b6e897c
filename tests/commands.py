"""Pipelines as commands, and what a test wants of their folders."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

ENCODER = {"name": "convnet", "width": 8, "stages": 3}  # small enough for a test
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", *words]


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words), env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False, **options
    )


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    """The same on two processes."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
         "--rdzv-endpoint", "localhost:0", *words],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_speed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must be equal in two logs of the same run."""
    return [{name: value for name, value in row.items() if name != "pairs_per_second"} for row in rows]


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) >= step):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(*words), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
