"""Kill tiny runs of every pipeline at file operations and at random times; give the same command again; compare.

A crash point is the k-th open for writing, rename, removal or new folder of a run. The run is killed there by SIGKILL,
then the same command must end with code 0 and the same weights, shards, tables and figures, bit for bit.

    python benchmarks/crashes.py [--points N] [--random N] [--pipelines shards,transfer] [--seed 0]
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
import yaml

from pipelines.__main__ import main
from pipelines.registry import find_pipeline

OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
TIMES = re.compile(r"seconds|per_second|per_step|memory|written|environment|peak")  # of figures that differ in time
NAMES = ("shards", "features", "supervise", "transfer", "pretrain", "certify", "evaluate", "report", "compare", "run")
ENCODER = {"name": "convnet", "width": 4, "stages": 2}
VIEWS = {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}}
TRAIN = {"batch_size": 16, "epochs": 2, "workers": 0, "log_every": 1, "save_every": 1}


def main_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """A tiny config for every pipeline; later ones read what earlier ones made."""
    train, test, teacher = f"{folder}/shards/train", f"{folder}/shards/test", f"{folder}/supervise"
    source = {"name": "synthetic", "train_pairs": 32, "test_pairs": 16, "size": 16}
    taught = {
        "data": train, "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": teacher}},
        "student": {"view": "depth", "encoder": ENCODER}, "objectives": {"ab": {}, "crd": {"negatives": {"count": 4}}},
        "train": TRAIN, "prepare": {"epochs": 1},
    }  # fmt: skip
    plain = {**taught, "objectives": {}}
    plain.pop("prepare")
    judged = {"data": {"train": train, "test": test}, "students": {"ours": [f"{folder}/transfer"]},
              "few_labels": None, "seeds": 1, "workers": 0}  # fmt: skip
    stages = {
        "pairs": {"pipeline": "shards", "config": "shards.yaml"},
        "teacher": {"pipeline": "supervise", "config": "supervise.yaml", "set": {"data": "@pairs/train"}},
    }
    return {
        "shards": {"source": source, "pairs_per_shard": 16},
        "supervise": {"data": train, "views": {"rgb": VIEWS["rgb"]}, "student": {"view": "rgb", "encoder": ENCODER},
                      "train": TRAIN},
        "features": {"data": train, "views": VIEWS, "teachers": taught["teachers"], "workers": 0,
                     "crop": {"windows": 1}},
        "transfer": taught,
        "pretrain": {"data": train, "views": {"rgb": VIEWS["rgb"]}, "encoders": {"rgb": {"view": "rgb", "encoder":
                     ENCODER}}, "objectives": {"infonce": {}}, "train": TRAIN, "monitor": {"pairs": 0}},
        "certify": {"data": train, "views": {"rgb": VIEWS["rgb"]}, "encoder": {"view": "rgb", "encoder":
                    {**ENCODER, "norm": "none"}}, "test": test, "tuples": {"negatives": 1}, "trade_offs": [100.0],
                    "certificate": {"draws": 2, "at_once": 1}, "train": {**TRAIN, "weight_decay": 0}},
        "evaluate": judged,
        "report": {"runs": [f"{folder}/evaluate", f"{folder}/transfer"], "map": "pca"},
        "compare": {"transfer": plain, "evaluate": {"data": {"test": test}, "few_labels": None, "workers": 0},
                    "objectives": {"kd": {"crd": {"negatives": {"count": 4}}}}, "measures": ["knn"], "seeds": [0],
                    "search": None},
        "run": {"stages": stages},
    }  # fmt: skip


def fork(words: list[str], log: Path, *, point: int = 0, after: float = 0, count: Path | None = None) -> int:
    """Runs a command in a child; gives its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        passed = _count_operations(point, Path(words[-1].partition("=")[2]))
        if after:
            threading.Thread(target=lambda: (time.sleep(after), os.kill(os.getpid(), signal.SIGKILL)), daemon=True
                             ).start()  # fmt: skip
        code = main(words)
        if count is not None:
            count.write_text(str(passed[0]))
    finally:
        os._exit(code)


def _count_operations(point: int, folder: Path) -> list[int]:
    """Counts operations that change the run's folder; kills this process before the given one."""
    passed = [0]

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in OPERATIONS or writes) and str(arguments[0]).startswith(str(folder)):
            passed[0] += 1
            if passed[0] == point:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    return passed


def results(folder: Path) -> dict[str, Any]:
    """What must be equal: bytes of weights and shards; figures and tables without times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "checkpoints" in path.parts or not path.is_file() or path.name == ".lock":
            continue
        if re.search(r"\.\d+(\.part)?$", path.name):
            found[name] = "left over"
        elif path.suffix in (".safetensors", ".tar") or path.name == "manifest.json":
            found[name] = path.read_bytes()
        elif path.name in ("report.json", "results.json", "model.json"):
            found[name] = list(_untimed(json.loads(path.read_text())))
        elif path.name == "metrics.jsonl":
            found[name] = [list(_untimed(json.loads(line))) for line in path.read_text().splitlines()]
    return found


def _untimed(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if TIMES.search(key) or "report.html" in key or "table.md" in key or "results.results.json" in key:
        return
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not children and not isinstance(value, dict | list):
        yield key, value
    for name, child in children:
        yield from _untimed(child, f"{key}.{name}")


def attempt(words: list[str], output: Path, whole: dict[str, Any], place: str, **kill: Any) -> list[str]:
    """Kills a run, gives the command again; what went wrong."""
    shutil.rmtree(output, ignore_errors=True)
    log = output.with_suffix(".log")
    first = fork(words, log, **kill)
    code = fork(words, log)
    if code:
        return [f"{place}: the second start ended with {code}: {log.read_text()[-300:]}"]
    again = results(output)
    names = [name for name in sorted({*whole, *again}) if whole.get(name) != again.get(name)]
    return [f"{place} (first ended with {first}): differs in {', '.join(names)}"] if names else []


def crash(folder: Path, names: list[str], points: int | None, randoms: int, seed: int) -> tuple[int, list[str]]:
    """The number of kills over all pipelines, and what went wrong after them."""
    draw, kills, problems = random.Random(seed), 0, []
    configs = main_configs(folder)
    last = max((place for place, name in enumerate(configs) if name in names), default=len(configs) - 1)
    for name, content in [*configs.items()][: last + 1]:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        base, output = folder / name, folder / f"{name}.killed"
        words, count = [name, str(folder / f"{name}.yaml")], folder / f"{name}.count"
        began = time.monotonic()
        code = fork([*words, f"output={base}"], folder / f"{name}.log", count=count)
        took = time.monotonic() - began
        if code:
            raise RuntimeError(f"{name} ended with {code}: {(folder / f'{name}.log').read_text()[-2000:]}")
        if name not in names:
            continue
        fork([*words, f"output={output}"], folder / f"{name}.log")  # a folder of the same name, for paths in reports
        whole = results(output)
        every = list(range(1, int(count.read_text()) + 1))
        chosen = every if points is None else sorted(draw.sample(every, min(points, len(every))))
        command = [*words, f"output={output}"]
        found = [line for k in chosen for line in attempt(command, output, whole, f"{name}, operation {k}", point=k)]
        for number in range(randoms):
            after = draw.uniform(0.01, took)
            found += attempt(command, output, whole, f"{name}, kill {number} after {after:.2f} s", after=after)
        kills += len(chosen) + randoms
        problems += found
        print(f"{name}: {len(chosen)} of {len(every)} operations, {randoms} random kills, {len(found)} went wrong "
              f"({time.monotonic() - began:.0f} s)", *found, sep="\n  ", flush=True)  # fmt: skip
    return kills, problems


def measure() -> int:
    """Reads the arguments; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="operations a pipeline, drawn by the seed; all unless given")
    parser.add_argument("--random", type=int, default=20, help="kills at random times a pipeline")
    parser.add_argument("--pipelines", default=",".join(NAMES))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in NAMES:
        find_pipeline(name)
    import pipelines.building.pretraining
    import pipelines.certification.certification  # what every run imports, once
    import pipelines.comparison.comparison
    import pipelines.evaluation.evaluator
    import pipelines.extraction.extraction
    import pipelines.training.loop  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        kills, problems = crash(Path(folder), asked.pipelines.split(","), asked.points, asked.random, asked.seed)
    print(f"{kills} kills, {len(problems)} went wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(measure())
