"""Pipelines as commands, each in a process of its own, and what a test wants of their folders.

Importing torch takes seconds, so commands are forked from one process that has imported everything (see
`preloaded.py`); it is started with the first command. What needs a fresh interpreter starts one: see `torchrun`.
"""

import atexit
import json
import multiprocessing
import multiprocessing.forkserver
import os
import resource
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from safetensors.torch import load_file

ENCODER = {"name": "convnet", "width": 8, "stages": 3}  # small enough for a test
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
SECONDS = 240  # after which a command is taken to hang
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["preloaded", "commands"])


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


class Command:
    """A command in a forked process, with the methods of `subprocess.Popen`.

    Args:
        words: of the command `crossmodal`; a path of a Python script first runs that instead.
        variables: of the environment, beside those of this process.
        new_session: it leads a process group, so that a signal can be sent to all its processes.
        largest_file: the most bytes that it can write into a file.
    """

    def __init__(
        self,
        *words: str,
        variables: Mapping[str, str] | None = None,
        new_session: bool = False,
        largest_file: int | None = None,
    ) -> None:
        root, tests = Path(__file__).parents[1], Path(__file__).parent
        paths = os.pathsep.join([str(root), str(tests), os.environ.get("PYTHONPATH", "")])
        with mock.patch.dict(os.environ, {**ENVIRONMENT, "PYTHONPATH": paths}):
            multiprocessing.forkserver.ensure_running()
        folder = Path(tempfile.mkdtemp(prefix="command-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self._printed = [folder / "stdout", folder / "stderr"]
        self._process = FORK.Process(
            target=_run,
            args=(words, self._printed, Path.cwd(), {**os.environ, **ENVIRONMENT, **(variables or {})}),
            kwargs={"new_session": new_session, "largest_file": largest_file},
        )
        self._process.start()
        atexit.register(self._process.kill)  # at exit, Python waits for processes that a failed test left behind
        self.pid: int = self._process.pid
        self.kill, self.terminate = self._process.kill, self._process.terminate

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the number of the signal that ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To this process alone."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = SECONDS) -> int:
        """Its code; raises `subprocess.TimeoutExpired` where it goes on."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = SECONDS) -> tuple[str, str]:
        """What it printed to stdout and stderr, once it has ended."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self._printed)
        return out, err


def _run(
    words: Sequence[str],
    printed: Sequence[Path],
    place: Path,
    environment: Mapping[str, str],
    *,
    new_session: bool,
    largest_file: int | None,
) -> None:
    """In the forked process: what an interpreter has when it begins, then the command."""
    multiprocessing.set_start_method(None, force=True)  # or its own workers would come from a server too
    if new_session:
        os.setsid()
    for number, path in enumerate(printed, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if words[0].endswith(".py"):
        sys.argv = [*words]
        runpy.run_path(words[0], run_name="__main__")
    else:
        from pipelines.__main__ import main

        sys.argv = ["crossmodal", *words]
        sys.exit(main())


def start(*words: str, **options: Any) -> Command:
    return Command(*words, **options)


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = Command(*words, **options)
    out, err = command.communicate()
    return subprocess.CompletedProcess(words, command.returncode, out, err)


def start_ranks(*words: str, ranks: int = 2, variables: Mapping[str, str] | None = None) -> list[Command]:
    """A command on some processes, with the variables that torchrun gives them, and others."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = str(listener.getsockname()[1])
    every = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": port,
             **(variables or {})}  # fmt: skip
    return [Command(*words, variables={**every, "RANK": rank, "LOCAL_RANK": rank}) for rank in map(str, range(ranks))]


def launch(*words: str, ranks: int = 2, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What all processes print, and the code of the first that fails."""
    started = start_ranks(*words, ranks=ranks, variables=variables)
    try:
        out, err = ("".join(printed) for printed in zip(*[each.communicate() for each in started], strict=True))
    finally:
        for each in started:
            each.kill()
    return subprocess.CompletedProcess(
        words, next((each.returncode for each in started if each.returncode), 0), out, err
    )


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    """The same by torch's own launcher, in fresh interpreters."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
         "--rdzv-endpoint", "localhost:0", *words],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS, check=False,
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


def wait_until(holds: Callable[[], object], process: Command | None = None) -> None:
    """Returns once it holds; fails where the process has ended before, or after minutes."""
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_step(folder: Path, step: int, process: Command) -> None:
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.is_file() and len(metrics.read_text().splitlines()) >= step, process)
