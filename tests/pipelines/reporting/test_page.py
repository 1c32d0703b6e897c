"""The page shows whatever an evaluation of one's own hands over, and runs of earlier versions without it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from commands import write

import crossmodal.evaluation
from pipelines.__main__ import main

pytestmark = pytest.mark.slow
EVALUATION = '''"""Something of every kind."""

from dataclasses import dataclass

import torch

from crossmodal.evaluation import Evaluation, Metric, Network, Pairs, Point


@dataclass(frozen=True)
class Everything(Evaluation):
    """Something of every kind."""

    def metrics(self) -> tuple[Metric, ...]:
        """Two points of a curve, one of another, and a column."""
        points = {at: Point("Size", "Elephants", at, "Asleep") for at in (3, None)}
        sizes = (Metric(f"size@{at}", f"size {at}", point=point) for at, point in points.items())
        return (*sizes, Metric("one", "one", point=Point("Rooms", "Doors", 1)), Metric("column", "A column"))

    def chance(self, pairs: Pairs) -> dict[str, float]:
        """Unknown."""
        return {}

    def measure(self, network: Network, pairs: Pairs) -> dict[str, float]:
        """Numbers."""
        given, grey = network.artefacts, torch.full((2, 3, 4, 4), 99, dtype=torch.uint8)
        given.context["What is given"] = grey
        given.pictures["What is answered"] = grey
        given.components["What it thinks"] = torch.arange(96).view(2, 3, 4, 4).float()
        given.legend["Savannah"] = "#c0ffee"
        given.values["Weights"] = {"tusk": 0.5}
        return {"size@3": 0.125, "size@None": 0.25, "one": 0.75, "column": 0.5}
'''


@pytest.fixture(scope="module")
def evaluated(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished evaluation of a student without a teacher, by an entry in a folder of plug-ins."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "plugins" / "evaluation").mkdir(parents=True)
    (folder / "plugins" / "evaluation" / "everything.py").write_text(EVALUATION)
    student = {
        "data": str(synthetic / "train"), "views": {"rgb": {"modality": "rgb", "size": 16}},
        "student": {"view": "rgb", "encoder": {"name": "convnet", "width": 4, "stages": 2}},
        "train": {"epochs": 1, "batch_size": 48, "workers": 0}, "output": str(folder / "student"),
    }  # fmt: skip
    asked = {
        "data": {"train": str(synthetic / "train"), "test": str(synthetic / "test")}, "metrics": {"everything": {}},
        "students": {"rgb": [str(folder / "student")]}, "few_labels": None, "seeds": 1, "workers": 0,
        "output": str(folder / "run"),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSMODAL_PLUGINS", str(folder / "plugins"))
        patch.setattr(crossmodal.evaluation, "__path__", [*crossmodal.evaluation.__path__])
        assert main(["supervise", str(write(folder / "student.yaml", student))]) == 0
        assert main(["evaluate", str(write(folder / "evaluate.yaml", asked))]) == 0
        yield folder
        sys.modules.pop("crossmodal.evaluation.everything", None)


def page_of(run: Path, output: Path) -> str:
    assert main(["report", str(write(output / "report.yaml", {"runs": [str(run)], "map": "pca",
                                                              "output": str(output / "report")}))]) == 0  # fmt: skip
    return (output / "report" / "report.html").read_text()


TITLES = ("Size, by Elephants", "rgb, Asleep", "Rooms, by Doors", "<td>12.5</td>", "What is given", "What is answered",
          "What it thinks", "background: #c0ffee", "Savannah", "Weights")  # fmt: skip


def test_the_page_shows_everything_that_an_evaluation_hands_over(evaluated: Path, tmp_path: Path) -> None:
    page = page_of(evaluated / "run", tmp_path)
    assert all(title in page for title in TITLES)
    assert "<th>A column</th>" in page and "<th>size 3</th>" not in page
    # a curve of two points, bars, a map of embeddings; what is given once, and the answers and thoughts of two networks
    assert page.count("data:image/png") == 3 + 2 * (1 + 2 + 2)


def test_a_run_of_an_earlier_version_has_a_page_without_it(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated / "run", run := tmp_path / "run")
    (run / "pictures.safetensors").unlink()
    report = json.loads((run / "report.json").read_text())
    for key in ("shown", "details"):
        del report["figures"][key]
    for metric in report["figures"]["metrics"].values():
        metric.pop("point", None)
    (run / "report.json").write_text(json.dumps(report))
    page = page_of(run, tmp_path)
    assert not any(title in page for title in TITLES if title != "<td>12.5</td>")
    assert "<th>size 3</th>" in page and page.count("data:image/png") == 1


def test_pictures_that_are_gone_are_an_error_that_names_them(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(evaluated / "run", run := tmp_path / "run")
    (run / "pictures.safetensors").unlink()
    config = write(tmp_path / "report.yaml", {"runs": [str(run)], "map": "pca", "output": str(tmp_path / "report")})
    assert main(["report", str(config)]) == 2
    assert f"runs: {run / 'pictures.safetensors'} is missing; run crossmodal evaluate" in capsys.readouterr().err
