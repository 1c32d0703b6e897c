"""Run folders: which config and inputs are the same run, and what is said where none can be begun."""

import copy
import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import commands
import pytest
import yaml

from crossmodal.checkpoint import WriteError, write
from pipelines import compare, evaluate, pretrain, transfer
from pipelines.__main__ import main
from pipelines.config import ConfigError, load, to_dict
from pipelines.config.errors import FinishedError
from pipelines.runs.folder import RunFolder, conflicts
from pipelines.runs.lock import LOCK, Lock

TRANSFER = """
data: d/train
views: {rgb: {modality: rgb}, depth: {modality: depth, max_m: 8}}
teachers: {rgb: {view: rgb, weights: t}}
student: {view: depth, encoder: convnet, weights: w}
objectives: {kd: }
"""
INPUTS = {"data": "1", "teachers.rgb": "2", "teachers.rgb.features": "3", "student.weights": "4"}
ELSEWHERE = ["data=/x/d/train/", "teachers.rgb.weights=/x/t", "teachers.rgb.features=f", "student.weights=v"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "x.yaml").write_text(TRANSFER)
    return tmp_path / "x.yaml"


def folder(file: Path, *overrides: str, **changed: str) -> RunFolder:
    config = load(transfer.Config, file, overrides)
    return RunFolder.of(file.parent / "run", "transfer", config, INPUTS | changed)


def test_where_equal_content_lies_makes_no_other_run(file: Path) -> None:
    folder(file).begin()
    assert folder(file, *ELSEWHERE).is_same
    other = folder(file, *ELSEWHERE, data="5")
    assert not other.is_same
    with pytest.raises(ConfigError) as caught:
        other.is_done()
    assert [line.strip() for line in caught.value.problems[1:]] == [
        'data: "d/train" before, "/x/d/train/" now',
        "data: its content changed since",
    ]


@pytest.mark.parametrize(
    "override", ["teachers.rgb.weight=2", "student.view=rgb", "train.lr=1", "teachers.rgb.sha256=a", "seed=1"]
)
def test_all_else_that_decides_results_makes_another_run(file: Path, override: str) -> None:
    folder(file).begin()
    assert folder(file).is_same and not folder(file, override).is_same


def test_a_run_that_goes_on_says_where_what_it_reads_lies_now(file: Path) -> None:
    folder(file).begin()
    folder(file, *ELSEWHERE).begin()
    assert load(transfer.Config, file.parent / "run" / "config.yaml").data == "/x/d/train/"


def test_a_run_that_stopped_may_go_on_with_skipping_but_not_the_other_way(file: Path) -> None:
    folder(file).begin()
    assert not folder(file, "train.on_error=skip").is_done()
    folder(file, "train.on_error=skip").begin()
    with pytest.raises(ConfigError, match=r'train.on_error: "skip" before, "stop" now'):
        folder(file).is_done()


def test_another_teacher_to_compare_with_makes_another_evaluation(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("data: {train: a, test: b}\nstudents: {kd: [c]}\nteacher: rgb")
    known = {"data.train": "1", "data.test": "2", "students.kd": "3", "teacher": "4"}

    def judged(*overrides: str) -> RunFolder:
        return RunFolder.of(tmp_path / "run", "evaluate", load(evaluate.Config, tmp_path / "e.yaml", overrides), known)

    judged().begin()
    assert judged("data={train: a/, test: ./b}", "students.kd=[/x/c]").is_same
    assert not judged("teacher=copy").is_same  # the same weights, perhaps on another view


def test_a_comparison_begun_before_its_record_lost_what_counts_for_nothing_is_the_same(file: Path) -> None:
    path = file.parent / "c.yaml"
    path.write_text("transfer: {base: x.yaml}\nevaluate: {data: {test: t}}\nobjectives: {kd: {kd: }}\nmetrics: [knn]")

    def compared(*overrides: str) -> RunFolder:
        found = load(compare.Config, path, overrides)
        return RunFolder.of(file.parent / "run", "compare", found, {"data": "1", "evaluate.data.test": "2"})

    compared().begin()
    record = file.parent / "run" / "run.json"
    before = json.loads(record.read_text())
    assert "seed" not in before["config"]["transfer"] and "train" not in before["config"]["evaluate"]["data"]
    before["config"]["transfer"] |= {"seed": 7, "held_out": None, "objectives": {}}
    record.write_text(json.dumps(before))
    assert compared("transfer.data=/x", "evaluate.data.test=./t").is_same
    assert not compared("seeds=[0]").is_same
    assert load(compare.Config, file.parent / "run" / "config.yaml").seeds == [0, 1, 2]


@pytest.mark.parametrize("action", [(), ("--part", "1/2"), ("--join",)])
def test_a_run_is_not_written_into_a_store(
    action: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"name": "synthetic", "train_pairs": 2, "test_pairs": 1, "size": 8, "modalities": ["rgb"]}
    Path("x.yaml").write_text(yaml.safe_dump({"source": source, "output": "s3://me:secret@bucket/shards"}))
    assert main(["shards", "x.yaml", *action]) == 2
    assert "output must be a local folder, got s3://bucket/shards; runs cannot be written into a store" in (
        capsys.readouterr().err
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]
    with pytest.raises(ConfigError, match="got s3://bucket/shards;"):  # without the secret in Python too
        RunFolder.of("s3://me:secret@bucket/shards", "shards", None, {})


def test_a_folder_that_cannot_be_made_is_named_as_output(file: Path) -> None:
    config = load(transfer.Config, file)
    with pytest.raises(ConfigError, match=r"^output .*x\.yaml/run: cannot be made: Not a directory; choose another"):
        RunFolder.of(file / "run", "transfer", config, INPUTS).begin()


LEFT = [
    [],
    [LOCK],
    [LOCK, ".config.yaml.4711"],
    [LOCK, "config.yaml"],
    [LOCK, "config.yaml", ".run.json.4711"],
]


@pytest.mark.parametrize("left", LEFT, ids=" ".join)
def test_a_kill_while_a_run_is_first_described_leaves_a_folder_that_it_begins_in(file: Path, left: list[str]) -> None:
    (file.parent / "run").mkdir()
    for name in left:
        (file.parent / "run" / name).write_text("cut")
    again = folder(file)
    assert not again.is_done()
    again.begin()
    assert {path.name for path in again.path.iterdir()} == {LOCK, "config.yaml", "run.json"}


def test_temporary_files_of_killed_processes_are_removed_but_not_those_of_another_run_below(file: Path) -> None:
    folder(file).begin()
    run = file.parent / "run"
    (run / "checkpoints" / "prepare").mkdir(parents=True)
    (run / "other").mkdir()
    gone = [run / ".report.json.77", run / "checkpoints" / "prepare" / "step_000000002.77.part"]
    kept = [run / "other" / ".run.json.78", run / "other" / LOCK, run / "checkpoints" / "step_000000001.pt"]
    for path in (*gone, *kept):
        path.write_text("x")
    folder(file).begin()
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_a_lock_is_not_held_by_processes_that_outlive_its_owner(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    owner = os.fork()
    if not owner:
        lock = Lock(tmp_path)
        worker = os.fork()
        if worker:
            os.write(writer, f"{worker}\n".encode())
        signal.pause()
        del lock
        os._exit(0)
    worker = int(os.read(reader, 20))
    try:
        with pytest.raises(ConfigError, match="another process is writing here"):
            Lock(tmp_path)
        os.kill(owner, signal.SIGKILL)
        os.waitpid(owner, 0)
        os.kill(worker, 0)  # it lives
        Lock(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("interrupted", [False, True])
def test_of_two_starts_the_second_finds_what_the_first_has_finished(file: Path, interrupted: bool) -> None:
    if interrupted:
        folder(file).begin()
    first, second = folder(file), folder(file)
    assert not first.is_done() and not second.is_done()
    first.begin()
    first.finish({"figures": {}})
    report = (first.path / "report.json").read_text()
    first.locks.clear()
    with pytest.raises(FinishedError, match="finished before; nothing to do"):
        second.begin()
    assert (first.path / "report.json").read_text() == report


def told(file: Path, *overrides: str, **changed: str) -> dict[str, Any]:
    """What a rank says of its run."""
    run = folder(file, *overrides, **changed)
    return {**run.identity, "config": to_dict(run.config, whole=True), "packages": {"torch": "2"}}


def test_ranks_that_agree_have_no_conflict_wherever_equal_inputs_lie(file: Path) -> None:
    assert conflicts([told(file), told(file, *ELSEWHERE), told(file)]) == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.lr=0.5", "train.lr is null on ranks 0, 2 and 0.5 on rank 1"),
        ("train.epochs=3", "train.epochs is null on ranks 0, 2 and 3 on rank 1"),
        ("seed=1", "seed is 0 on ranks 0, 2 and 1 on rank 1"),
        ("objectives.kd.weight=2", "objectives.kd.weight is 1.0 on ranks 0, 2 and 2.0 on rank 1"),
        ("objectives.kd.temperature=9", "objectives.kd.temperature is 4.0 on ranks 0, 2 and 9.0 on rank 1"),
        ("train.workers=7", "train.workers is 2 on ranks 0, 2 and 7 on rank 1"),
        ("output=o", 'output is "runs/transfer" on ranks 0, 2 and "o" on rank 1'),
    ],
)
def test_a_rank_with_another_config_is_named(file: Path, override: str, words: str) -> None:
    found = conflicts([told(file), told(file, override), told(file)])
    assert found == [f"every process must be given the same run, but {words}"]


@pytest.mark.parametrize("name", INPUTS)
def test_a_rank_with_other_content_of_an_input_is_named(file: Path, name: str) -> None:
    found = conflicts([told(file), told(file), told(file, **{name: "9"})])
    assert found == [f"every process must read the same, but {name} has other content on rank 2 than on rank 0"]


def test_a_rank_with_other_versions_or_another_pipeline_is_named(file: Path) -> None:
    ours = told(file)
    other = copy.deepcopy(ours) | {"pipeline": "supervise", "packages": {"torch": "3"}}
    assert [line.partition(" but ")[2] for line in conflicts([ours, other])] == [
        'pipeline is "transfer" on rank 0 and "supervise" on rank 1',
        'versions.torch is "2" on rank 0 and "3" on rank 1',
    ]


@pytest.mark.slow
def test_runs_killed_at_file_operations_end_with_the_same_bits_by_the_same_command() -> None:
    """The whole of it, over all pipelines, is benchmarks/crashes.py."""
    script = Path(__file__).parents[3] / "benchmarks" / "crashes.py"
    words = ["--points", "3", "--random", "1", "--pipelines", "supervise,features"]
    done = commands.run(str(script), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\w+): equal after (\d+) of (\d+) operation", done.stdout, re.MULTILINE)
    assert found == [("supervise", "3", "3"), ("features", "3", "3")]


@pytest.mark.parametrize(("code", "remedy"), [
    (errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EFBIG, "ulimit -f"), (errno.EROFS, "writable"),
])  # fmt: skip
def test_a_file_that_the_disk_refuses_is_named_and_the_old_one_stays(
    tmp_path: Path, code: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write(path, "old")

    def refuse(aside: Path, content: bytes) -> None:
        aside.touch()
        raise OSError(code, os.strerror(code))  # as a write does, without a name

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(WriteError, match=f"could not write {path}: {os.strerror(code)}; .*{remedy}.*same command"):
        write(path, "new")
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, a disk without room")
def test_figures_that_do_not_fit_on_the_disk_name_their_file(file: Path) -> None:
    run = folder(file)
    run.path.mkdir()
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(WriteError, match=r"could not write .*run/metrics\.jsonl: No space left .*; free space"):
        run.log({"step": 1})


def test_a_run_of_before_under_old_keys_is_the_same_run(tmp_path: Path) -> None:
    views, encoders = {"rgb": {"modality": "rgb"}}, {"a": {"view": "rgb", "encoder": "convnet"}}
    content = {"data": "d", "views": views, "encoders": encoders, "objectives": {"infonce": {}}, "crops": 3}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**content, "train": {"crop": {"flip": 0.0}}}))
    config = load(pretrain.Config, tmp_path / "x.yaml")
    RunFolder.of(tmp_path / "run", "pretrain", config, {"data": "1"}).begin()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    plain = record["config"]
    plain["crops"], plain["watch"] = plain.pop("crops"), plain.pop("monitor")
    plain["train"]["crop"] = plain["train"].pop("crop")
    for crops in (3, 2):
        plain["crops"] = crops
        (tmp_path / "run" / "run.json").write_text(json.dumps(record))
        assert RunFolder.of(tmp_path / "run", "pretrain", config, {"data": "1"}).is_same == (crops == 3)


def test_a_run_of_before_without_an_option_of_today_is_another_run(tmp_path: Path) -> None:
    views, encoders = {"rgb": {"modality": "rgb"}}, {"a": {"view": "rgb", "encoder": "convnet"}}
    content = {"data": "d", "views": views, "encoders": encoders, "objectives": {"infonce": {}}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    config = load(pretrain.Config, tmp_path / "x.yaml")
    RunFolder.of(tmp_path / "run", "pretrain", config, {"data": "1"}).begin()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    del record["config"]["views"]["rgb"]["fit"]  # pictures were stretched then
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert not RunFolder.of(tmp_path / "run", "pretrain", config, {"data": "1"}).is_same
