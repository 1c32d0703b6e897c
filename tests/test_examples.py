"""The scripts in examples/: their command is one that torchrun and the pipelines take, and a SLURM job continues."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import ENCODER, ENVIRONMENT, assert_equal, launch, wait_for_step, weights, write
from torch.distributed.run import parse_args

from crossmodal.models import Card, save_model

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path for path in EXAMPLES.glob("*/*") if path.suffix in (".sh", ".sbatch"))
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "node[0-1]",
    "SLURM_GPUS_ON_NODE": "8",
}

RUN_ON_EVERY_NODE = """#!/bin/bash
nodes=()
trap 'kill -TERM "${nodes[@]}"' TERM
while [[ $1 == --* ]]; do shift; done
for node in $(seq 1 "$SLURM_JOB_NUM_NODES"); do "$@" & nodes+=("$!"); done
worst=0
for node in "${nodes[@]}"; do
  while kill -0 "$node" 2>/dev/null; do wait "$node"; code=$?; done
  [ "$code" -eq 0 ] || worst=$code
done
exit "$worst"
"""


def place(folder: Path, **programs: str) -> dict[str, str]:
    """Programs in a folder of their own, and variables with which they are found first."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {**ENVIRONMENT, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def noting(path: Path) -> str:
    """A program that writes down its words."""
    return f"#!{sys.executable}\nimport json, sys\nopen({str(path)!r}, 'w').write(json.dumps(sys.argv[1:]))\n"


def test_scripts_are_found_and_bash_reads_them() -> None:
    assert len(SCRIPTS) == 3
    for path in SCRIPTS:
        subprocess.run(["bash", "-n", str(path)], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", str(path)], check=True)


@pytest.mark.parametrize(("command", "nodes", "processes", "first"), [
    (["bash", "examples/slurm/transfer.sbatch"], "2", "8", "node0:24711"),
    (["bash", "examples/torchrun/two_nodes.sh", "1", "node0"], "2", "gpu", "node0:29500"),
    (["sky"], "2", "4", "10.0.0.1:29500"),
])  # fmt: skip
def test_torchrun_takes_the_command_of_an_example(
    tmp_path: Path, command: list[str], nodes: str, processes: str, first: str
) -> None:
    words = ["my.yaml", "train.lr=1e-3"]
    if command == ["sky"]:
        example = yaml.safe_load((EXAMPLES / "skypilot" / "transfer.yaml").read_text())
        command, words = ["bash", "-c", example["run"]], []
        assert {"name", "num_nodes", "resources", "file_mounts", "envs", "setup", "run"} == example.keys() - {"workdir"}
    given = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
             "SKYPILOT_NUM_GPUS_PER_NODE": "4", "CONFIG": "my.yaml", **SLURM}  # fmt: skip
    paths = place(
        tmp_path / "bin",
        torchrun=noting(tmp_path / "words"),
        srun='#!/bin/bash\nshift\nexec "$@"\n',
        scontrol='#!/bin/bash\necho "scontrol $*" >&2\nprintf "node0\\nnode1\\n"\n',
    )
    done = subprocess.run([*command, *words], env=paths | given, cwd=ROOT, capture_output=True, text=True, check=True)
    args = parse_args(json.loads((tmp_path / "words").read_text()))
    place_of = args.rdzv_endpoint or f"{args.master_addr}:{args.master_port}"
    assert (args.nnodes, args.nproc_per_node, place_of) == (nodes, processes, first)
    assert (args.module, args.training_script) == (True, "pipelines")
    assert args.training_script_args[:2] == ["transfer", "my.yaml"]
    assert not words or args.training_script_args[2:] == ["train.lr=1e-3"]
    assert "requeue" not in done.stderr  # only a job that was stopped goes back into the queue


def test_each_task_of_an_array_packs_a_part(tmp_path: Path) -> None:
    paths = place(tmp_path / "bin", crossmodal=noting(tmp_path / "words"))
    given = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "64"}
    subprocess.run(["bash", "examples/slurm/pack.sbatch", "my.yaml"], env=paths | given, cwd=ROOT, check=True)
    assert json.loads((tmp_path / "words").read_text()) == ["shards", "my.yaml", "--part", "3/64"]


@pytest.fixture
def config(synthetic: Path, tmp_path: Path) -> Path:
    """A transfer of 90 steps, from a teacher with random weights."""
    options = {"width": 8, "stages": 3}
    card = Card("convnet", options, (3, 32, 32), [], "rgb", {"size": 32, "fit": "crop"})
    save_model(tmp_path / "teacher", card, card.build(), {})
    return write(tmp_path / "transfer.yaml", {
        "data": str(synthetic / "train"),
        "views": {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
        "teachers": {"rgb": {"view": "rgb", "weights": str(tmp_path / "teacher")}},
        "student": {"view": "depth", "encoder": ENCODER},
        "objectives": {"crd": {"negatives": {"count": 40}}},
        "train": {"epochs": 30, "batch_size": 32, "workers": 0, "log_every": 1, "save_every": 1000},
        "output": str(tmp_path / "run"),
    })  # fmt: skip


@pytest.mark.slow
def test_a_slurm_job_that_is_stopped_is_requeued_and_continues_with_the_same_bits(config: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        port = next(port for port in range(20000, 30000) if probe.connect_ex(("localhost", port)))
    requeued = tmp_path / "requeued"
    paths = place(
        tmp_path / "bin",
        srun=RUN_ON_EVERY_NODE,
        scontrol=f'#!/bin/bash\nif [ "$1" = requeue ]; then echo "$2" >> {requeued}; else echo localhost; fi\n',
    )
    (tmp_path / "bin" / "torchrun").symlink_to(Path(sys.executable).parent / "torchrun")
    given = {**paths, **SLURM, "SLURM_JOB_ID": str(port - 20000), "SLURM_GPUS_ON_NODE": "1", "PYTHONPATH": str(ROOT)}
    words = ["bash", "examples/slurm/transfer.sbatch", str(config)]
    with subprocess.Popen(
        words, env=given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        try:
            wait_for_step(tmp_path / "run", 5, job)  # type: ignore[arg-type]
            job.send_signal(signal.SIGTERM)
            told = job.communicate(timeout=60)[0]
        finally:
            job.kill()
    assert job.returncode == 0 and requeued.read_text() == f"{port - 20000}\n", told
    assert "the same command continues" in told and "goes back into the queue and continues" in told
    assert len([*(tmp_path / "run" / "checkpoints").iterdir()]) == 1
    assert not (tmp_path / "run" / "report.json").exists()

    again = launch("transfer", str(config))  # as the job's next run, but faster
    assert again.returncode == 0, again.stderr
    assert "continuing the interrupted run" in again.stdout
    assert launch("transfer", str(config), f"output={tmp_path / 'whole'}").returncode == 0
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
