"""Kill tiny runs of every pipeline at file operations and at random times; give the same command again; compare.

A crash point is the k-th open for writing, rename, removal or new folder below the run's folder. What the folder holds
there, and so what SIGKILL would leave, is kept; and once more with the file that was opened last cut to half of what
has been written to it since. From each of these, and after SIGKILL at random times, the same command must end with code
0 and the same weights, shards, tables and figures, bit for bit. Every run is forked from one process that has imported
what all of them import, so that a kill costs about a second.

    python benchmarks/crashes.py [--points N] [--random N] [--jobs N] [--workers N] [--pipelines shards,run] [--seed 0]
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
import yaml

from pipelines.__main__ import main
from pipelines.config import load, to_dict
from pipelines.registry import find_pipeline

OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
TIMES = re.compile(r"seconds|per_second|per_step|memory|written|environment|peak")  # of figures that differ in time
NAMES = ("shards", "features", "supervise", "transfer", "pretrain", "certify", "evaluate", "report", "compare", "run")
ENCODER = {"name": "convnet", "width": 4, "stages": 2}
VIEWS = {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}}


def main_configs(folder: Path, workers: int) -> dict[str, dict[str, Any]]:
    """A tiny config for every pipeline; later ones read what earlier ones made."""
    steps = {"batch_size": 16, "epochs": 2, "workers": workers, "log_every": 1, "save_every": 1}
    train, test, teacher = f"{folder}/shards/train", f"{folder}/shards/test", f"{folder}/supervise"
    source = {"name": "synthetic", "train_pairs": 32, "test_pairs": 4, "size": 16}
    taught = {
        "data": train, "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": teacher}},
        "student": {"view": "depth", "encoder": ENCODER}, "objectives": {"ab": {}, "crd": {"negatives": {"count": 4}}},
        "train": steps, "prepare": {"epochs": 1},
    }  # fmt: skip
    shared = {key: taught[key] for key in ("data", "views", "teachers", "student")}
    judged = {"data": {"train": train, "test": test}, "students": {"ours": [f"{folder}/transfer"]},
              "few_labels": None, "seeds": 1, "workers": workers}  # fmt: skip
    stages = {
        "pairs": {"pipeline": "shards", "config": "shards.yaml"},
        "teacher": {"pipeline": "supervise", "config": "supervise.yaml", "set": {"data": "@pairs/train"}},
    }
    return {
        "shards": {"source": source, "pairs_per_shard": 16},
        "supervise": {"data": train, "views": {"rgb": VIEWS["rgb"]}, "student": {"view": "rgb", "encoder": ENCODER},
                      "train": steps},
        "features": {"data": train, "views": VIEWS, "teachers": taught["teachers"], "workers": workers,
                     "crop": {"windows": 1}},
        "transfer": taught,
        "pretrain": {"data": train, "views": {"rgb": VIEWS["rgb"]}, "encoders": {"rgb": {"view": "rgb", "encoder":
                     ENCODER}}, "objectives": {"infonce": {}}, "train": {**steps, "log_every": 3, "ema": 0.9}},
        "certify": {"data": train, "views": {"rgb": VIEWS["rgb"]}, "encoder": {"view": "rgb", "encoder": ENCODER},
                    "test": test, "tuples": {"positives": "crop", "negatives": 1}, "validation": 0.25,
                    "trade_offs": [100.0], "prior": {"share": 0.5, "train": steps},
                    "certificate": {"draws": 2, "at_once": 1}, "train": {**steps, "batch_size": 8, "weight_decay": 0}},
        "evaluate": judged,
        "report": {"runs": [f"{folder}/evaluate", f"{folder}/transfer"], "map": "pca"},
        "compare": {"transfer": {**shared, "train": {**steps, "optimiser": "sgd"}},
                    "evaluate": {"data": {"test": test}, "few_labels": None, "workers": workers},
                    "objectives": {"kd": {"crd": {"negatives": {"count": 4}}}}, "metrics": ["knn"], "seeds": [0],
                    "search": {"weights": [1.0, 10.0], "held_out": {"share": 0.5}}},
        "run": {"stages": stages},
    }  # fmt: skip


def fork(words: list[str], log: Path, *, states: Path | None = None, after: float = 0.0) -> int:
    """Runs a command in a child; gives its exit code, or minus the signal that ended it.

    Args:
        words: the command's, the last of them output=FOLDER.
        log: file for what the command prints.
        states: folder that keeps what the output holds before each file operation; what was imported is told beside it.
        after: seconds after which the run is killed; 0: it is not.
    """
    child = os.fork()
    if child and after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)  # until it is waited for, its number is its own
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        operations = [] if states is None else _keep_states(Path(words[-1].partition("=")[2]), states)
        code = main(words)
        log.with_suffix(".json").write_text(json.dumps({"operations": operations, "modules": [*sys.modules]}))
    finally:
        os._exit(code)


def _keep_states(folder: Path, states: Path) -> list[Any]:
    """Copies the run's folder before each operation that changes it, as a kill would leave it; lists the operations.

    With each comes the file that was opened last, and its size then: what a kill may have left half-written.
    """
    operations: list[Any] = []
    opened: tuple[str, int] | None = None

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        path = Path(os.fsdecode(arguments[0])) if event in OPERATIONS or writes else states
        if not path.is_relative_to(folder):
            return
        place = path.relative_to(folder).as_posix()
        operations.append((f"{event} {place}", opened))
        if folder.exists():
            shutil.copytree(folder, states / str(len(operations)))
        size = path.stat().st_size if writes and path.exists() and not arguments[2] & os.O_TRUNC else 0
        opened = (place, size) if writes and path.name != ".lock" else None

    sys.addaudithook(hear)
    return operations


def run_whole(words: list[str], log: Path, states: Path | None = None) -> list[Any]:
    """The file operations of a run that nothing interrupts; what it imported is imported here too.

    Raises:
        RuntimeError: it failed.
    """
    code = fork(words, log, states=states)
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {log.read_text()[-2000:]}")
    told = json.loads(log.with_suffix(".json").read_text())
    for name in told["modules"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    to_dict(load(find_pipeline(words[0]).Config, Path(words[1])), whole=True)  # reads sources, which are kept
    gc.freeze()  # else a run would spend most of its time in collecting
    return told["operations"]


def results(folder: Path) -> dict[str, Any]:
    """What must be equal: bytes of weights and shards; figures and tables without times; names of all other files."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "checkpoints" in path.parts or not path.is_file():
            continue
        if path.suffix in (".safetensors", ".tar", ".idx", ".png") or path.name in ("manifest.json", "config.yaml"):
            found[name] = path.read_bytes()
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text()
            found[name] = [_figures(each) for each in (text.splitlines() if path.suffix == ".jsonl" else [text])]
        else:
            found[name] = None
    return found


def _figures(text: str) -> list[tuple[str, Any]] | str:
    """The leaves of a JSON file or line that do not tell times; the text itself where it is damaged."""
    try:
        content = json.loads(text)
    except ValueError:
        return text
    if content.get("pipeline") == "report":
        content.pop("inputs", None)  # digests of reports, in which times are
    return list(_untimed(content))


def _untimed(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if TIMES.search(key) or "report.html" in key or "table.md" in key or "results.results.json" in key:
        return
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not children and not isinstance(value, dict | list):
        yield key, value
    for name, child in children:
        yield from _untimed(child, f"{key}.{name}")


def finish(words: list[str], whole: dict[str, Any], place: str) -> list[str]:
    """Gives the command of an interrupted run again; what went wrong."""
    output = Path(words[-1].partition("=")[2])
    log = output.with_suffix(".log")
    code = fork(words, log)
    if code:
        return [f"{place}: the second start ended with {code}: {log.read_text()[-1500:]}"]
    again = results(output)
    names = [name for name in sorted({*whole, *again}) if whole.get(name, "absent") != again.get(name, "absent")]
    return [f"{place}: differs in {', '.join(names)}"] if names else []


def prepare(folder: Path, names: list[str], workers: int) -> None:
    """The configs, and a run of every pipeline up to the last of the named ones, for later ones read what it makes."""
    configs = main_configs(folder, workers)
    last = max([*configs].index(name) for name in names)
    for name, content in [*configs.items()][: last + 1]:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
        run_whole([name, str(folder / f"{name}.yaml"), f"output={folder / name}"], folder / f"{name}.log")


def crash(folder: Path, name: str, asked: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Kind of kill and what went wrong after it, kill by kill; of equal states of the folder only one is continued."""
    draw, log = random.Random(f"{asked.seed} {name}"), folder / f"{name}.log"
    output, states = folder / f"{name}.killed", folder / f"{name}.states"
    words = [name, str(folder / f"{name}.yaml"), f"output={output}"]
    operations, whole = run_whole(words, log, states), results(output)
    told: dict[str, list[str]] = {}
    numbers = range(1, len(operations) + 1)
    for k in numbers if asked.points is None else sorted(draw.sample(numbers, min(asked.points, len(numbers)))):
        operation, opened = operations[k - 1]
        for cut in [None, opened] if opened else [None]:
            _put_back(states / str(k), output)
            if cut and (file := output / cut[0]).exists():
                os.truncate(file, (cut[1] + file.stat().st_size) // 2)
            place = f"{name}, operation {k} ({operation}){f', {cut[0]} cut' if cut else ''}"
            if (state := _digest(output)) not in told:
                told[state] = finish(words, whole, place)
            yield "cut" if cut else "operation", told[state]
    shutil.rmtree(states)
    for number in range(asked.random):
        if number == 0:
            shutil.rmtree(output)
            began = time.monotonic()
            fork(words, log)
            took = time.monotonic() - began
        shutil.rmtree(output, ignore_errors=True)
        after = draw.uniform(0.01, took)
        struck = fork(words, log, after=after) == -signal.SIGKILL
        yield "random" if struck else "late", finish(words, whole, f"{name}, kill {number}, {after:.2f} s")


def _put_back(state: Path, output: Path) -> None:
    shutil.rmtree(output, ignore_errors=True)
    if state.exists():
        shutil.copytree(state, output)


def _digest(folder: Path) -> str:
    """Equal for folders that hold the same."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(os.fsencode(path.relative_to(folder)) + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
    return found.hexdigest()


def sweep(folder: Path, name: str, asked: argparse.Namespace) -> int:
    """Kills one pipeline and prints what went wrong, then how often; 1 where anything did."""
    counts: dict[str, list[int]] = {}  # by kind: kills, and those after which all was equal
    began = time.monotonic()

    def told() -> str:
        parts = ", ".join(f"{right} of {tried} {kind}" for kind, (tried, right) in counts.items())
        return f"{name}: equal after {parts} ({time.monotonic() - began:.0f} s)"

    for number, (kind, problems) in enumerate(crash(folder, name, asked), 1):
        tried, right = counts.get(kind, [0, 0])
        counts[kind] = [tried + 1, right + (not problems)]
        for problem in problems:
            print(problem, flush=True)
        if number % 10 == 0:
            print(f"so far, {told()}", file=sys.stderr, flush=True)
    print(told(), flush=True)
    return int(any(right < tried for tried, right in counts.values()))


def measure() -> int:
    """Reads the arguments; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="file operations of a pipeline, drawn by the seed; default: all")
    parser.add_argument("--random", type=int, default=20, help="kills of a pipeline at random times")
    parser.add_argument("--workers", type=int, default=0, help="processes that read and decode, of every run")
    parser.add_argument("--pipelines", default=",".join(NAMES))
    parser.add_argument("--jobs", type=int, default=1, help="pipelines that are killed at the same time")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names, codes, jobs = asked.pipelines.split(","), [0], 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), names, asked.workers)
        for name in names:
            if jobs == asked.jobs:
                codes.append(os.wait()[1])
                jobs -= 1
            jobs += 1
            if os.fork() == 0:
                code = 70
                try:
                    code = sweep(Path(folder), name, asked)
                finally:
                    os._exit(code)
        codes += [os.wait()[1] for _ in range(jobs)]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(measure())
