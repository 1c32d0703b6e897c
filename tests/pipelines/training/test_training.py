"""Training from the command line: resume to the bit, signals, processes, refusals."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import (
    ENCODER,
    assert_equal,
    launch,
    lines,
    run,
    start,
    start_ranks,
    torchrun,
    wait_for_step,
    wait_until,
    weights,
    without_speed,
    write,
)
from safetensors.torch import save_file
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from crossmodal import SOURCES
from crossmodal.data.writer import write_shards
from crossmodal.models import load_model
from pipelines import transfer
from pipelines.__main__ import main
from pipelines.config import ConfigError, load
from pipelines.runs.folder import RunFolder
from pipelines.schemas.common import TrainConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an RGB teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    config = write(
        folder / "teacher.yaml",
        {
            "data": str(synthetic / "train"),
            "views": {"rgb": {"modality": "rgb", "size": 32}},
            "student": {"view": "rgb", "encoder": ENCODER},
            "train": {"epochs": 12, "batch_size": 32, "lr": 0.003, "workers": 0},
            "output": str(folder / "run"),
        },
    )
    assert main(["supervise", str(config)]) == 0
    return folder / "run"


@pytest.fixture
def config(synthetic: Path, teacher: Path, tmp_path: Path) -> Path:
    """A transfer of 18 steps."""
    return write(
        tmp_path / "transfer.yaml",
        {
            "data": str(synthetic / "train"),
            "views": {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
            "teachers": {"rgb": {"view": "rgb", "weights": str(teacher)}},
            "student": {"view": "depth", "encoder": ENCODER},
            "objectives": {"crd": {"weight": 0.8, "negatives": {"count": 40}}, "kd": {"weight": 0.5}},
            "train": {
                "epochs": 6,
                "batch_size": 32,
                "lr": 1e-3,
                "workers": 0,
                "log_every": 1,
                "save_every": 3,
                "ema": 0.9,
            },
            "output": str(tmp_path / "run"),
        },
    )


def test_killed_at_any_step_the_same_command_ends_bit_equal(config: Path, tmp_path: Path) -> None:
    assert run("transfer", str(config), f"output={tmp_path / 'whole'}").returncode == 0
    killed = start("transfer", str(config))
    wait_for_step(tmp_path / "run", 7, killed)  # checkpoints are written after every third
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    again = run("transfer", str(config))
    assert again.returncode == 0, again.stderr
    assert "continuing the interrupted run" in again.stdout
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))


def test_sigterm_saves_and_the_same_command_continues(config: Path, tmp_path: Path) -> None:
    words = ("transfer", str(config), "train.save_every=1000")
    assert run(*words, f"output={tmp_path / 'whole'}").returncode == 0
    stopped = start(*words)
    wait_for_step(tmp_path / "run", 5, stopped)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(60) == 128 + signal.SIGTERM
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    again = run(*words)
    assert again.returncode == 0, again.stderr
    assert "from step" in again.stdout
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_sigterm_to_all_processes_of_a_run_saves_too(config: Path, tmp_path: Path) -> None:
    """As torchrun, SLURM and systemd send it: the loader's workers hear it as well."""
    words = ["transfer", str(config), "train.save_every=1000", "train.workers=2", "train.epochs=200"]
    stopped = start(*words, new_session=True)
    wait_for_step(tmp_path / "run", 5, stopped)
    os.killpg(stopped.pid, signal.SIGTERM)
    told = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 128 + signal.SIGTERM, told
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_until_it_sleeps(process: int) -> None:
    """Returns once the main thread was found asleep 25 times on end: what was ready is used up."""
    found = deque([""], maxlen=25)

    def sleeps() -> bool:
        found.append(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0])
        return found == deque("S" * 25)

    wait_until(sleeps)


@pytest.mark.skipif(not Path("/proc/1/task").is_dir(), reason="finds the workers in /proc")
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_ends_a_run_whose_workers_stall_and_the_same_command_continues(
    config: Path, tmp_path: Path, ranks: int
) -> None:
    """With two processes, only one of them stalls, and the other waits for it."""
    words = ["transfer", str(config), "train.save_every=1000", "train.workers=1", "train.epochs=20"]
    whole = run if ranks == 1 else launch
    assert whole(*words, f"output={tmp_path / 'whole'}").returncode == 0
    mains = [start(*words)] if ranks == 1 else start_ranks(*words)
    wait_for_step(tmp_path / "run", 5, mains[0])
    workers = children_of(mains[-1].pid)
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    for main_process in mains:
        wait_until_it_sleeps(main_process.pid)
    for main_process in mains:
        main_process.send_signal(signal.SIGTERM)
    try:
        told = [main_process.communicate(timeout=120)[0] for main_process in mains]
    finally:
        for main_process in mains:
            main_process.kill()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    assert "; the same command continues" in told[0]
    assert [main_process.returncode for main_process in mains] == [128 + signal.SIGTERM] * ranks
    again = whole(*words)
    assert again.returncode == 0, again.stderr
    assert "from step" in again.stdout
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_dead_worker_is_one_line(config: Path, tmp_path: Path) -> None:
    process = start("transfer", str(config), "train.workers=2", "train.epochs=500")
    wait_for_step(tmp_path / "run", 5, process)
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    told = process.communicate(timeout=60)[1].strip()
    assert process.returncode == 1
    assert re.fullmatch(r"worker \d of the data loader \(process \d+\) was ended by SIGKILL: most likely .*", told), (
        told
    )


def test_a_folder_takes_one_process_at_a_time(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = start("transfer", str(config), "train.epochs=200")
    wait_for_step(tmp_path / "run", 2, first)
    log = tmp_path / "run" / "metrics.jsonl"
    before = log.read_text()
    assert main(["transfer", str(config), "train.epochs=200"]) == 2
    assert "another process is writing here" in capsys.readouterr().err
    first.kill()
    first.wait()
    assert log.read_text().startswith(before)


def test_of_two_that_begin_one_folder_the_first_has_it(config: Path, tmp_path: Path) -> None:
    asked = load(transfer.Config, config)
    first, second, third = (RunFolder.of(tmp_path / "run", "transfer", asked, {}) for _ in range(3))
    assert not first.is_done() and not second.is_done()
    first.begin()
    described = (tmp_path / "run" / "run.json").stat()
    with pytest.raises(ConfigError, match="another process is writing here"):
        second.begin()
    assert (tmp_path / "run" / "run.json").stat() == described
    first.locks.clear()  # it was killed
    with pytest.raises(ConfigError, match="another process began a run there; give the command again"):
        second.begin()
    assert not third.is_done()
    third.begin()


def test_a_folder_that_another_process_is_at_is_not_put_aside_nor_renewed(config: Path, tmp_path: Path) -> None:
    asked = load(transfer.Config, config)
    begun = RunFolder.of(tmp_path / "run", "transfer", asked, {})
    begun.begin()
    changed = replace(asked, seed=7)
    with pytest.raises(ConfigError, match="another process is writing here"):
        RunFolder.of(tmp_path / "run", "transfer", changed, {}).make_room()
    with pytest.raises(ConfigError, match="another process is writing here"):
        RunFolder.of(tmp_path / "run", "transfer", changed, {}).renew()
    assert [folder.name for folder in tmp_path.iterdir() if folder.is_dir()] == ["run"]
    begun.locks.clear()
    renewed = RunFolder.of(tmp_path / "run", "transfer", changed, {}).renew()
    with pytest.raises(ConfigError, match="another process is writing here"):  # though it has not begun
        RunFolder.of(tmp_path / "run", "transfer", changed, {}).begin()
    renewed.begin()


def test_a_full_disk_loses_nothing(config: Path, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the checkpoint of step 3 is written before, step 6 fails."""
    stopped = start("transfer", str(config))
    wait_for_step(tmp_path / "run", 4, stopped)
    stopped.send_signal(signal.SIGTERM)
    stopped.wait(60)
    before = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    failed = run("transfer", str(config), largest_file=20_000)
    assert failed.returncode == 1
    assert "could not write" in failed.stderr and "is intact. Free space" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == before
    assert run("transfer", str(config)).returncode == 0


def test_two_processes_finish_with_the_losses_of_one(config: Path, tmp_path: Path) -> None:
    """Batch norm's statistics are each process's own, so an encoder without it."""
    words = ["transfer", str(config), "student.encoder.norm=none", "train.epochs=2", "train.ema=null"]
    assert run(*words, f"output={tmp_path / 'one'}").returncode == 0
    launched = torchrun("-m", "pipelines", *words, f"output={tmp_path / 'two'}")  # as users do it
    assert launched.returncode == 0, launched.stderr
    assert json.loads((tmp_path / "two" / "report.json").read_text())["figures"]["processes"] == 2
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], tensor, atol=2e-3, rtol=1e-2)


def test_ranks_that_were_given_different_runs_stop_before_anything_starts(
    config: Path, teacher: Path, synthetic: Path, tmp_path: Path
) -> None:
    """A launch for each pair of commands costs seconds, so that one script gives many in turn, and prints the codes."""
    data = Path(shutil.copytree(synthetic / "train", tmp_path / "data"))
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (data / "manifest.json").write_text(json.dumps(manifest))
    other = Path(shutil.copytree(teacher, tmp_path / "other"))
    save_file({name: tensor * 2 for name, tensor in weights(teacher).items()}, other / "model" / "model.safetensors")
    card = other / "model" / "model.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "weights": ""}))  # else the sum would be refused first
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: [")
    pretrain = write(tmp_path / "pretrain.yaml", {
        "data": str(synthetic / "train"), "views": {"rgb": {"modality": "rgb", "size": 32}},
        "encoders": {"rgb": {"view": "rgb", "encoder": ENCODER}}, "objectives": {"infonce": {}},
        "output": str(tmp_path / "pretrained"),
    })  # fmt: skip
    stage = {"pipeline": "transfer", "config": str(config)}
    whole = [
        write(tmp_path / f"{names}.yaml", {"stages": {name: {**stage} for name in names}, "output": f"{tmp_path}/out"})
        for names in ("a", "ab")
    ]
    same = ["transfer", str(config)]
    cases = {
        "train.lr is 0.001 on rank 0 and 0.5 on rank 1": (same, [*same, "train.lr=0.5"]),
        "train.epochs is ": (same, [*same, "train.epochs=1"]),
        "seed is 0 on rank 0 and 3 on rank 1": (same, [*same, "seed=3"]),
        "data has other content on rank 1 than on rank 0": (same, [*same, f"data={data}"]),
        "teachers.rgb has other content on rank 1 than on rank 0": (same, [*same, f"teachers.rgb.weights={other}"]),
        "rank 1: ": (same, ["transfer", str(broken)]),
        f"rank 1: data: {tmp_path}/absent": (same, [*same, f"data={tmp_path}/absent"]),
        "gradients.unit is null on rank 0 and 2 on rank 1": (
            ["pretrain", str(pretrain)], ["pretrain", str(pretrain), "gradients.unit=2"]
        ),
        'stages is ["a"] on rank 0 and ["a", "b"] on rank 1': tuple(["run", str(path)] for path in whole),
    }  # fmt: skip
    script = tmp_path / "command.py"
    script.write_text(
        "import os\nfrom pipelines.__main__ import main\nfrom pipelines.runs import distributed\n"
        "part, distributed.part = distributed.part, lambda: None  # a group opens once in a process\n"
        f"for number, each in enumerate({list(cases.values())!r}):\n"
        "    code = main(each[int(os.environ['RANK'])])\n"
        "    print(f'case {number} rank {os.environ[\"RANK\"]} code {code}', flush=True)\n"
        "part()\n"
    )
    launched = launch(str(script))
    assert launched.returncode == 0, launched.stderr
    for number, words in enumerate(cases):
        assert words in launched.stderr
        assert all(f"case {number} rank {rank} code 2" in launched.stdout for rank in (0, 1)), launched.stdout
    assert launched.stderr.count("seed is 0 on rank 0") == 1 and "Traceback" not in launched.stderr
    assert not any((tmp_path / name).exists() for name in ("run", "pretrained", "out"))


def test_stages_follow_on_two_processes_that_part_at_the_end(config: Path, synthetic: Path, tmp_path: Path) -> None:
    """Threads that serve the other process abort this one now and then, if they are left when Python ends."""
    teacher = {"data": str(synthetic / "train"), "views": {"rgb": {"modality": "rgb", "size": 32}},
               "student": {"view": "rgb", "encoder": ENCODER},
               "train": {"epochs": 1, "batch_size": 32, "workers": 0, "trackers": ["tensorboard"]}}  # fmt: skip
    stages = {
        "teacher": {"pipeline": "supervise", "config": str(write(tmp_path / "teacher.yaml", teacher))},
        "student": {"pipeline": "transfer", "config": str(config), "set": {"teachers.rgb.weights": "@teacher"}},
    }
    whole = write(tmp_path / "all.yaml", {"stages": stages, "output": str(tmp_path / "out")})
    script = tmp_path / "command.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom pipelines.__main__ import main\ncode = main(sys.argv[1:])\n"
        "threads = [file.read_text().strip() for file in Path('/proc/self/task').glob('*/comm')]\n"
        "sys.exit(code or ' and '.join(name for name in threads if 'gloo' in name) or None)\n"
    )
    launched = launch(str(script), "run", str(whole))
    assert launched.returncode == 0, launched.stderr
    assert list((tmp_path / "out" / "teacher").rglob("events.out.tfevents.*"))
    assert json.loads((tmp_path / "out" / "student" / "report.json").read_text())["figures"]["processes"] == 2


def test_unreadable_pairs_are_named_and_counted_over_all_processes(
    config: Path, synthetic: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(synthetic / "train", tmp_path / "data"))
    shard = bytearray((data / "000002.tar").read_bytes())
    where = shard.index(b".depth.png") // 512 * 512 + 512
    shard[where : where + 8] = bytes(8)  # one picture is none any more
    (data / "000002.tar").write_bytes(shard)
    launched = launch("transfer", str(config), f"data={data}", "train.epochs=2", "train.on_error=skip")
    assert launched.returncode == 0, launched.stderr
    figures = json.loads((tmp_path / "run" / "report.json").read_text())["figures"]
    assert figures["unreadable_replaced"] == 2  # once an epoch, whichever process met it
    assert "another pair replaces an unreadable one: " in launched.stderr and "000002.tar: pair" in launched.stderr


def test_other_starting_weights_are_another_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", str(config), "train.epochs=1", f"student.weights={tmp_path / 'start.safetensors'}"]
    assert main(["transfer", str(config), "train.epochs=1", f"output={tmp_path / 'first'}"]) == 0
    shutil.copy(tmp_path / "first" / "model" / "model.safetensors", tmp_path / "start.safetensors")
    kept = {f"encoder.{name}": tensor for name, tensor in weights(tmp_path / "first").items() if "trunk" in name}
    save_file({name.removeprefix("encoder."): kept[name] for name in kept}, tmp_path / "start.safetensors")
    assert main(words) == 0
    save_file({name.removeprefix("encoder."): kept[name] * 2 for name in kept}, tmp_path / "start.safetensors")
    assert main(words) == 2
    assert "student.weights: its content changed since" in capsys.readouterr().err


def test_a_finished_run_is_not_repeated(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", str(config), "train.epochs=1"]) == 0
    assert main(["transfer", str(config), "train.epochs=1", "train.workers=1"]) == 0  # workers change nothing
    assert "finished before; nothing to do" in capsys.readouterr().out


def test_another_config_in_the_same_folder_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", str(config), "train.epochs=1"]) == 0
    assert main(["transfer", str(config), "train.epochs=1", "train.lr=0.5"]) == 2
    told = capsys.readouterr().err
    assert "holds another run" in told and "train.lr: 0.001 before, 0.5 now" in told


def test_maps_of_views_that_are_not_aligned_are_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", str(config), "objectives.at={}", "views.rgb.aligned=false"]) == 2
    assert "objectives.at compares maps place by place, so views 'depth' and 'rgb' must both" in capsys.readouterr().err


def test_changed_data_in_the_same_folder_is_refused(
    config: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(synthetic / "train", tmp_path / "data"))
    assert main(["transfer", str(config), "train.epochs=1", f"data={data}"]) == 0
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert main(["transfer", str(config), "train.epochs=1", f"data={data}"]) == 2
    assert "data: its content changed since" in capsys.readouterr().err


def test_a_folder_with_other_things_in_it_is_not_written_into(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert main(["transfer", str(config), f"output={tmp_path / 'mine'}"]) == 2
    assert "holds files but no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("teachers.rgb.weights=nowhere", "teachers.rgb.weights: nowhere holds no exported model"),
        ("data=nowhere", "data: nowhere/manifest.json is missing (there is no such folder)"),
        (
            "views.rgb.size=16",
            "the teacher was trained on Rgb of shape (3, 32, 32), the view gives Rgb of shape (3, 16",
        ),
        ("views.rgb.mean=[0,0,0]", "so it would get other numbers for the same scene; give it a view of"),
        ("student.view=deptth", "student.view must be one of the views, got 'deptth'; did you mean 'depth'? (known"),
        ("student.weights=none.pth", "student.weights: there is no file of weights at"),
        ("train.mixed_precision=fp16", "train.mixed_precision must be no or bf16 on a CPU, got fp16"),
        ("objectives.type.name=infonce", "objectives: an objective cannot be called 'type'; give it another name"),
        ("objectives.loss.name=infonce", "objectives.loss needs another name"),
        ("views.window={modality: rgb}", "views.window needs another name: window is reserved"),
        ("views.depth.scale_m=0.01", "views.depth: scale_m must be 0.001, as the manifest of"),
        ("views.depth.max_m=0.001", "views.depth: "),
        ("train.batch_size=500", "train.batch_size must be from 1 to the number of pairs, 96, got 500"),
        (
            "train.accumulate=32",
            "train.batch_size must give every part of a step two pairs, for batch norm takes their",
        ),
        ("teachers.rgb.sha256=abc", "teachers.rgb.weights: "),
        ("teachers.rgb.classes=7", "teachers.rgb.classes needs published weights by name, or a file with encoder"),
        ("teachers.rgb.first_layer=mean", "teachers.rgb.first_layer needs published weights"),
        ("teachers.rgb.weight=0", "objectives.crd: its teachers, rgb, all weigh 0; raise teachers.NAME.weight"),
        ("student.sha256=abc", "student.sha256 applies to a weights file, but weights is not given"),
        ("train.accumulate=5", "train.accumulate must divide the 32 pairs a process takes a step, got 5"),
        ("objectives.crd.temperature=0", "objectives.crd: crd needs a finite temperature from 0.001"),
        (
            "objectives.crd.negatives=bag",
            "objectives.crd.negatives.source must be one of 'batch', 'gathered', 'queue', 'bank'",
        ),
        ("objectives.crd.negatives.count=0", "count must be at least 1 and momentum from 0 to below 1, got 0 and 0.5"),
        ("objectives.crd.negatives={place: host, draw: all}", "a bank in host memory needs draw: shared"),
        ("objectives.crd.negatives={apart: group}", "objectives.crd needs groups, and the pairs have none"),
        (
            "objectives.kd.teachers=[depth]",
            "objectives.kd.teachers must be one of the teachers, got 'depth' (known: rgb)",
        ),
        ("objectives.kd.teachers=[rgb, rgb]", "objectives.kd.teachers must name each teacher once, got rgb, rgb"),
        (
            "objectives.cross_entropy={teachers: [rgb]}",
            "objectives.cross_entropy.teachers: cross_entropy compares with no teacher; leave it out",
        ),
        ("teachers={a.b: {view: rgb, weights: w}}", "teachers.a.b needs another name: use letters, digits, _ and -"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    config: Path, tmp_path: Path, override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), override]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()  # so that the mended config may use it


def test_accumulated_parts_equal_the_whole_batch(config: Path, tmp_path: Path) -> None:
    """For losses that are means over rows, and an encoder that does not mix rows."""
    words = [
        "transfer",
        str(config),
        "~objectives.crd",
        "student.encoder.norm=none",
        "train.epochs=2",
        "train.ema=null",
    ]
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    assert main([*words, "train.accumulate=4", f"output={tmp_path / 'parts'}"]) == 0
    for whole, part in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert part["loss"] == pytest.approx(whole["loss"], rel=1e-4)


def test_accumulated_parts_weigh_every_label_alike(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=96, test_pairs=0, size=32)
    pairs = (pair if number % 16 == 0 else replace(pair, label=-1) for number, pair in enumerate(source.pairs("train")))
    write_shards(pairs, tmp_path / "few", fields=source.fields(), classes=source.classes())
    words = ["supervise", str(config), f"data={tmp_path / 'few'}", "~teachers", "~objectives", "train.epochs=2",
             "student.encoder.norm=none", "objectives={cross_entropy: }", "pairs=all"]  # fmt: skip
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    assert main([*words, "train.accumulate=4", f"output={tmp_path / 'parts'}"]) == 0
    for whole, part in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert part["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    told = r"whole: trains on 6 labelled pairs of \d classes and 90 without a label$"
    assert re.search(told, capsys.readouterr().out, re.MULTILINE)
    assert main(["shards", "--info", str(tmp_path / "few")]) == 0
    assert re.search(r"8 classes: .*; 90 pairs without a label$", capsys.readouterr().out, re.MULTILINE)


def test_labels_of_one_class_are_not_learnt_from(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SOURCES.get("synthetic")(train_pairs=40, test_pairs=0, size=16)
    pairs = (pair if pair.label == 1 else replace(pair, label=-1) for pair in source.pairs("train"))
    write_shards(pairs, tmp_path / "one", fields=source.fields(), classes=source.classes())
    words = ["supervise", str(config), f"data={tmp_path / 'one'}", "~teachers", "~objectives"]
    assert main([*words, "objectives={cross_entropy: }"]) == 2
    told = rf"data: pairs of \S+one must have labels of two or more classes .*, got \d+ of {source.classes()[1]}$"
    assert re.search(told, capsys.readouterr().err, re.MULTILINE)


def test_a_line_of_the_log_is_of_all_its_steps_though_a_signal_came_between(config: Path, tmp_path: Path) -> None:
    words = ("transfer", str(config), "train.save_every=5", "train.log_every=9")
    assert run(*words, f"output={tmp_path / 'whole'}").returncode == 0
    stopped = start(*words)
    wait_until(lambda: list(tmp_path.glob("run/checkpoints/*5.pt")), stopped)
    stopped.kill()
    stopped.wait()
    assert run(*words).returncode == 0
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))


def test_chunks_equal_the_whole_batch_for_losses_that_see_all_of_it(config: Path, tmp_path: Path) -> None:
    words = ["transfer", str(config), "student.encoder.norm=group", "objectives.infonce={}", "objectives.rkd={}"]
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    assert main([*words, "train.chunk=7", f"output={tmp_path / 'chunks'}"]) == 0
    for whole, chunk in zip(lines(tmp_path / "whole"), lines(tmp_path / "chunks"), strict=True):
        assert chunk["loss"] == pytest.approx(whole["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "train: chunk needs rows that do not depend on one another, but trunk.stem.1 is batch normalisation"),
        (["student.encoder.norm=group", "objectives.at={}"], "(with train.chunk objectives see no maps)"),
        (["train.mixed_precision=fp16"], "train.mixed_precision must be no or bf16 with chunk"),
    ],
)
def test_what_cannot_go_by_chunks_is_refused(
    config: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), "train.chunk=8", *words]) == 2
    assert told in capsys.readouterr().err


def test_time_and_memory_are_told_over_all_sittings(config: Path, tmp_path: Path) -> None:
    process = start("transfer", str(config))
    wait_for_step(tmp_path / "run", 4, process)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert run("transfer", str(config)).returncode == 0
    figures = json.loads((tmp_path / "run" / "report.json").read_text())["figures"]
    paces = [32 / line["pairs_per_second"] for line in lines(tmp_path / "run")]
    assert len(paces) == 18
    assert figures["milliseconds_per_step"] == pytest.approx(1000 * statistics.median(paces), rel=0.02)
    assert 200 < figures["peak_memory_mb"] < 4000  # torch alone takes 300


def test_workers_with_unequal_shares_are_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train.workers=2", "train.epochs=1", "train.batch_size=24", "train.lanes=3"]
    assert main(["transfer", str(config), *words]) == 0
    assert "2 workers share 3 lanes unevenly" in capsys.readouterr().out


def test_a_checkpoint_with_weights_in_another_order_is_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start("transfer", str(config))
    wait_for_step(tmp_path / "run", 4, process)
    process.terminate()
    process.wait()
    kept = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    state = torch.load(kept, weights_only=True)
    moments = state["optimiser"]["state"]
    moments[0], moments[2] = moments[2], moments[0]  # a head and a convolution
    torch.save(state, kept)
    assert main(["transfer", str(config)]) == 1
    assert f"{kept} is of another version of this program" in capsys.readouterr().err


@pytest.mark.parametrize(("spoilt", "words"), [
    ("train.lr=1e30", "the loss is no longer finite at step"),
    ("objectives.kd.temperature=1e25", "the loss is no longer finite at step 1: loss, kd of {"),
    ("train.lr=1e42 train.epochs=1 train.batch_size=96", "of the student is no longer finite after step 1"),
])  # fmt: skip
def test_a_training_that_diverges_says_so_and_exports_nothing(
    config: Path, tmp_path: Path, spoilt: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), "train.optimiser=sgd", "train.warmup=0", *spoilt.split()]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("options", [
    ["train.mixed_precision=bf16"],
    ["train.optimiser=sgd", "train.schedule=step", "train.clip_norm=1.0"],
    ["train.trackers=[tensorboard]"],
    ["train.workers=2", "train.on_error=skip"],
])  # fmt: skip
def test_options_of_training_work_from_the_command_line(config: Path, tmp_path: Path, options: Sequence[str]) -> None:
    assert main(["transfer", str(config), "train.epochs=1", *options]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["figures"]["last"]["loss"] > 0
    assert len(lines(tmp_path / "run")) == 3
    if "tensorboard" in options[0]:
        assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_biases_and_norms_decay_only_when_asked_for() -> None:
    from pipelines.training.optimiser import build_optimiser

    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    for decay_all, expected in ((False, [0.1, 0.0, 0.0, 0.0]), (True, [0.1] * 4)):
        optimiser = build_optimiser(module, TrainConfig(weight_decay=0.1, decay_all=decay_all))
        of = {id(weight): group["weight_decay"] for group in optimiser.param_groups for weight in group["params"]}
        assert [of[id(weight)] for weight in module.parameters()] == expected


def test_the_rate_warms_up_and_falls() -> None:
    from pipelines.training.optimiser import rate

    cosine = TrainConfig(warmup=0.1)
    found = [rate(cosine, step, 100) for step in range(100)]
    assert found[:10] == sorted(found[:10]) and found[0] == pytest.approx(1 / 11)
    assert found[10] == 1 and found[55] == pytest.approx(0.5) and found[99] < 0.001
    step = TrainConfig(warmup=0.0, schedule="step", milestones=[0.5, 0.75], gamma=0.1)
    assert [rate(step, at, 100) for at in (0, 49, 50, 75)] == pytest.approx([1, 1, 0.1, 0.01])
    assert rate(TrainConfig(warmup=0.0, schedule="constant"), 99, 100) == 1


def averaged(values: Sequence[float], decay: float) -> float:
    """The average of values that follow a first 0, by its weights: each value's share times all later decays."""
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(1, len(values) + 1)]
    return sum((1 - own) * value * math.prod(decays[number + 1 :])
               for number, (own, value) in enumerate(zip(decays, values, strict=True)))  # fmt: skip


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_averaged_weights_follow_their_formula(decay: float) -> None:
    from pipelines.training.optimiser import Average

    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 0.0)
    average, values = Average(module, decay), [float(step % 7) for step in range(1, 41)]
    for step, value in enumerate(values, 1):
        torch.nn.init.constant_(module.weight, value)
        average.update(module, step)
    assert average.state["weight"].item() == pytest.approx(averaged(values, decay), rel=1e-5)


def test_little_of_the_initial_weights_is_left_after_few_steps() -> None:
    """At 0.999 without a warm-up, 73 % of them are."""
    from pipelines.training.optimiser import Average

    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    average = Average(module, 0.999)
    torch.nn.init.constant_(module.weight, 0.0)
    for step in range(1, 323):
        average.update(module, step)
    assert average.state["weight"].item() < 1e-10


def test_the_exported_weights_are_the_averaged_ones(config: Path, tmp_path: Path) -> None:
    """Their oracle follows the weights after every step of the optimiser, in a loop of its own."""
    seen: list[list[torch.Tensor]] = []

    def note(optimiser: torch.optim.Optimizer, *_: object) -> None:
        seen.append([weight.detach().double() for group in optimiser.param_groups for weight in group["params"]])

    def note_first(optimiser: torch.optim.Optimizer, *_: object) -> None:
        if not seen:
            note(optimiser)

    hooks = [register_optimizer_step_pre_hook(note_first), register_optimizer_step_post_hook(note)]
    try:
        assert main(["transfer", str(config), "train.epochs=2", "train.ema=0.3", "train.lr=0.01"]) == 0
    finally:
        for hook in hooks:
            hook.remove()
    means, *later = seen
    assert len(later) == 6
    for step, now in enumerate(later, 1):
        decay = [2 / 11, 3 / 12, 0.3][min(step, 3) - 1]  # 4 / 13 is above 0.3
        means = [decay * mean + (1 - decay) * weight for mean, weight in zip(means, now, strict=True)]

    def holds(weights: list[torch.Tensor], tensor: torch.Tensor) -> bool:
        return any(each.shape == tensor.shape and (each - tensor).abs().max() < 1e-6 for each in weights)

    exported = load_model(tmp_path / "run").encoder
    assert [name for name, weight in exported.named_parameters() if not holds(means, weight.double())] == []
    assert [name for name, weight in exported.named_parameters() if holds(later[-1], weight.double())] == []


@pytest.mark.parametrize(("dies", "waits", "why"), [
    ("os.kill(os.getpid(), signal.SIGKILL)", "take(*given)", r"\(process \d+\) ended without a reason"),
    ("raise MemoryError('no room')", "time.sleep(100)", "ended the run: MemoryError: no room"),  # as NCCL would wait
])  # fmt: skip
def test_a_process_that_ends_ends_the_others_in_seconds_with_its_reason(
    config: Path, tmp_path: Path, dies: str, waits: str, why: str
) -> None:
    """Nobody else ends them, as with a launcher on each of two nodes."""
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from pipelines.training import loop\n"
        "from pipelines.__main__ import main\n"
        "take, taken = loop.Training._take, []\n"
        "def die(*given):\n"
        "    taken.append(1)\n"
        "    if len(taken) == 4:\n"
        "        if os.environ['RANK'] == '1':\n"
        f"            {dies}\n"
        f"        return {waits}\n"
        "    return take(*given)\n"
        "loop.Training._take = die\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main())\n"
    )
    ranks = start_ranks(str(script), "transfer", str(config), "train.workers=1")
    ranks[1].wait()
    assert ranks[0].wait(15) == 1
    (_, told), (_, cause) = (rank.communicate() for rank in ranks)
    assert ranks[1].returncode == (1 if "MemoryError" in why else -signal.SIGKILL), cause
    assert len(re.findall(f"rank 0: rank 1 on .* {why}", told)) == 1, told
    assert "Traceback" not in told and "lost another" not in told


@pytest.mark.parametrize(("saved", "told"), [
    (1000, "the same command starts again from step 0"),
    (1, "the same command continues from {0}/checkpoints/step_000000001.pt"),
])  # fmt: skip
def test_a_stop_after_the_loss_was_lost_says_that_nothing_was_saved(
    config: Path, tmp_path: Path, saved: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = []

    def stop(*_: object) -> None:
        steps.append(1)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(stop)
    words = ["transfer", str(config), "train.optimiser=sgd", "train.warmup=0", "train.lr=1e30", "train.log_every=1000"]
    with contextlib.ExitStack() as stack:
        stack.callback(hook.remove)
        assert main([*words, f"train.save_every={saved}"]) == 128 + signal.SIGTERM
    run_folder = tmp_path / "run"
    assert (
        f"{run_folder}: stopped at step 3 of 18; no checkpoint was written, because the loss is no longer finite; "
        + (told.format(run_folder))
        in capsys.readouterr().out
    )
    assert len(list(run_folder.glob("checkpoints/*.pt"))) == (1 if saved == 1 else 0)
