"""An evaluation in a plug-in folder is measured, compared by and shown, and nothing else is written for it."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import write

import crossmodal.evaluation
from pipelines.__main__ import main

pytestmark = pytest.mark.slow
ENCODER = {"name": "convnet", "width": 4, "stages": 2}
VIEWS = {"depth": {"modality": "depth", "size": 16, "max_m": 8.0}}
TRAIN = {"epochs": 1, "batch_size": 48, "workers": 0}
PAGE = Path(__file__).parents[3] / "docs" / "adding.md"


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the evaluation that the documentation adds."""
    (code,) = re.findall(r"## An evaluation: .*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "plugins" / "evaluation").mkdir(parents=True)
    (tmp_path / "plugins" / "evaluation" / "effective_rank.py").write_text(code)
    monkeypatch.setenv("CROSSMODAL_PLUGINS", str(tmp_path / "plugins"))
    monkeypatch.setattr(crossmodal.evaluation, "__path__", [*crossmodal.evaluation.__path__])
    yield "effective_rank"
    sys.modules.pop("crossmodal.evaluation.effective_rank", None)


def test_an_evaluation_of_ones_own_is_measured_compared_by_and_shown(
    plugin: str, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "evaluations"]) == 0
    assert re.search(r"effective_rank\s+Exponential of the entropy", capsys.readouterr().out)
    data, student = str(synthetic / "train"), {"view": "depth", "encoder": ENCODER}
    evaluation = {"workers": 0, "few_labels": None, "metrics": {"classification": {}, plugin: {"centre": False}}}
    comparison = write(tmp_path / "compare.yaml", {
        "transfer": {"data": data, "views": VIEWS, "teachers": {}, "student": student, "train": TRAIN},
        "evaluate": {**evaluation, "data": {"test": str(synthetic / "test")}},
        "objectives": {"labels": {"cross_entropy": {}}, "smooth": {"cross_entropy": {"smoothing": 0.1}}},
        "metrics": [plugin, "knn"], "seeds": [0], "search": None, "output": str(tmp_path / "compared"),
    })  # fmt: skip

    assert main(["compare", str(comparison)]) == 0

    judged = json.loads((tmp_path / "compared" / "evaluation" / "report.json").read_text())["figures"]
    assert judged["metrics"][plugin] == {
        "heading": "effective rank", "higher_is_better": True, "percent": False, "chance": None
    }  # fmt: skip
    ranks = {who: row[plugin]["mean"] for who, row in judged["table"].items()}
    assert ranks.keys() == {"labels", "smooth", "random weights"} and all(1 <= rank <= 64 for rank in ranks.values())
    best, other = sorted(("labels", "smooth"), key=ranks.__getitem__, reverse=True)
    table = (tmp_path / "compared" / "table.md").read_text().splitlines()
    assert table[0] == "|  | effective rank | kNN | seeds | ms a step | peak MB |"
    assert table[2].startswith(f"| {best} | {ranks[best]:.3f} |") and table[3].startswith(f"| {other} | ")
    page = (tmp_path / "compared" / "report" / "report.html").read_text()
    assert page.count('<th scope="col">effective rank</th>') == 1  # of the comparison
    assert page.count('<th scope="row">effective rank</th>') == 1  # of its evaluation


def test_an_undeclared_metric_is_refused_with_its_evaluation(
    plugin: str, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plugins" / "evaluation" / "effective_rank.py"
    path.write_text(path.read_text().replace('return {"effective_rank"', 'return {"rank"'))
    supervised = {"data": str(synthetic / "train"), "views": VIEWS, "student": {"view": "depth", "encoder": ENCODER},
                  "train": TRAIN, "output": str(tmp_path / "student")}  # fmt: skip
    assert main(["supervise", str(write(tmp_path / "supervise.yaml", supervised))]) == 0
    asked = {"data": {"train": str(synthetic / "train"), "test": str(synthetic / "test")}, "workers": 0, "seeds": 1,
             "few_labels": None, "students": {"s": [str(tmp_path / "student")]}, "metrics": {plugin: {}},
             "output": str(tmp_path / "evaluation")}  # fmt: skip
    assert main(["evaluate", str(write(tmp_path / "evaluate.yaml", asked))]) == 1
    told = capsys.readouterr().err
    assert "metrics.effective_rank measured 'rank' of s as " in told and "Traceback" not in told
