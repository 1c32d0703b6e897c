"""Sections of the page: reports of earlier versions."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ConfigError
from pipelines.reporting.sections import describe_run


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
