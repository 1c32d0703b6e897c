"""Run folders: which config and inputs are the same run, and what is said where none can be begun."""

import json
from pathlib import Path

import pytest

from pipelines import compare, evaluate, transfer
from pipelines._config import ConfigError, load
from pipelines._run import RunFolder

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
    path.write_text("transfer: {base: x.yaml}\nevaluate: {data: {test: t}}\nobjectives: {kd: {kd: }}\nmeasures: [knn]")

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


def test_a_folder_that_cannot_be_made_is_named_as_output(file: Path) -> None:
    config = load(transfer.Config, file)
    with pytest.raises(ConfigError, match=r"^output .*x\.yaml/run: cannot be made: Not a directory; choose another"):
        RunFolder.of(file / "run", "transfer", config, INPUTS).begin()
