"""Sections of the page: reports of earlier versions, and the evaluations that the page begins with."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ConfigError
from pipelines.reporting.sections import describe_answer, describe_run


@pytest.mark.parametrize(
    ("pipeline", "again"),
    [("evaluate", "crossmodal evaluate with a new output"), ("compare", "crossmodal compare")],
)
@pytest.mark.parametrize("figures", [{"table": {}}, {"metrics": ["knn"]}])
def test_a_report_without_headings_is_refused_with_what_to_do(
    tmp_path: Path, pipeline: str, again: str, figures: dict[str, Any]
) -> None:
    report = {"pipeline": pipeline, "figures": figures, "environment": {"written": "then"}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "run.json").write_text(json.dumps({"environment": {}}))
    (tmp_path / "config.yaml").write_text("old: true\n")
    with pytest.raises(ConfigError) as caught:
        describe_run(tmp_path, "pca")
    assert caught.value.problems == [
        f"runs: {tmp_path} was written by an earlier version, whose report has no headings; run {again} again"
    ]


def finished(folder: Path, pipeline: str) -> Path:
    """The files of a finished run that the head of a page reads."""
    knn = {"heading": "kNN", "higher_is_better": True, "percent": True, "chance": 0.1}
    row = {"knn": {"mean": 0.5, "std": None, "runs": [0.5]}}
    figures = {"metrics": {"knn": knn}, "table": {"crd": row}, "few_labels": {}, "seeds": 1, "verdict": ["Gain."],
               "train_pairs": 1, "test_pairs": 1}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"pipeline": pipeline, "figures": figures}))
    (folder / "run.json").write_text(json.dumps({"inputs": {"data.train": "t", "data.test": "j"}}))
    (folder / "config.yaml").write_text("data: {train: a, test: b}\nstudents: {crd: [c]}\n")
    return folder


def test_evaluations_are_named_by_the_part_of_their_folders_that_differs(tmp_path: Path) -> None:
    folders = [finished(tmp_path / name / "evaluation", "evaluate") for name in ("crd", "kd")]
    (table,) = describe_answer(folders).tables
    assert [block.name for block in table.blocks] == ["crd/evaluation", "kd/evaluation"]
    assert [*describe_answer(folders[:1]).verdicts] == ["evaluation"]


def test_the_evaluation_of_a_comparison_and_other_runs_are_not_at_the_head_of_the_page(tmp_path: Path) -> None:
    compared = finished(tmp_path / "compared", "compare")
    inner, other = (finished(path / "evaluation", "evaluate") for path in (compared, tmp_path))
    student = finished(tmp_path / "student", "transfer")
    assert not describe_answer([compared, inner, student]).tables
    assert len(describe_answer([compared, inner, student, other]).tables[0].blocks) == 1
