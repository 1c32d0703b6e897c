"""The page begins with the answer, fits a narrow screen, and shows whatever an evaluation of one's own hands over."""

import json
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from commands import write

import crossmodal.evaluation
from pipelines.__main__ import main
from pipelines.reporting.answer import Answer, Block, Line, MainTable, Verdict
from pipelines.reporting.page import render

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
def evaluated(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
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


VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """The elements of a page in their order: tag, attributes, text, and the elements that each lies in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A new element."""
        element = {"tag": tag, "text": "", "inside": [*self.open]} | dict(attrs)
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        """It ends, and what was left open in it."""
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Text of the element that is open."""
        if self.open:
            self.open[-1]["text"] += data.strip()

    def of(self, *tags: str) -> list[dict[str, Any]]:
        """The elements with these tags."""
        return [element for element in self.found if element["tag"] in tags]


def check(page: str) -> Outline:
    """What holds of every page."""
    outline = Outline(page)
    assert [element["tag"] for element in outline.open] == []
    levels = [int(heading["tag"][1]) for heading in outline.of("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(low - high <= 1 for high, low in pairwise(levels)), "a level of headings is skipped"
    assert all(picture["alt"] for picture in outline.of("img"))
    for table in outline.of("table"):  # a wide table scrolls in its own container; that of found pairs shrinks
        assert table.get("class") == "found" or any(outer.get("class") == "scroll" for outer in table["inside"])
    assert all(cell.get("scope") in ("row", "col", "rowgroup") for cell in outline.of("th"))
    assert not outline.of("script", "link", "iframe")
    return outline


WHERE = {
    "packages": {"crossmodal-transfer": "1", "torch": "2"},
    "commit": "c",
    "python": "3",
    "cpus": 2,
    "platform": "p",
    "written": "then",
}
BLOCK = Block("run <a>", [Line("crd", "frozen", [("50.8", "47.9\u201353.6"), ("-", "")])], ["10.0", "0.5"])
TABLE = MainTable(["10 labels a class", "error, m"], ["in %", ""], [BLOCK], "Mean over 3 seeds.", ["n labels: few."])


def test_the_page_begins_with_the_verdict_and_then_the_narrow_table() -> None:
    page = render("T", Answer({"run": [Verdict("Gain: 50.8 % (47.9 to 53.6).", "More.", "")]}, [], [TABLE]), [], WHERE)
    found = check(page).of("h1", "h2", "strong", "p", "table", "img", "details")
    assert [element["tag"] for element in found] == ["h1", "p", "strong", "table", "p", "details", "p"]
    assert found[2]["text"] == "Gain: 50.8\u00a0% (47.9\u00a0to\u00a053.6)." and found[1]["text"] == "More."
    assert found[1]["inside"][-2]["aria-label"] == "Verdict" and found[3]["class"] == "answer"
    assert "<td><b>50.8</b><small>47.9\u201353.6</small></td>" in page and "run &lt;a&gt;" not in page


def test_a_page_without_a_verdict_begins_with_the_table() -> None:
    found = check(render("T", Answer({}, [], [TABLE]), [], WHERE)).of("h1", "h2", "p", "table", "section")
    assert [element["tag"] for element in found[:2]] == ["h1", "table"]


def test_several_evaluations_are_named_and_warned_about_before_their_table() -> None:
    table = MainTable(TABLE.headings, TABLE.units, [BLOCK, Block("b", [], ["1", "2"])], "", [])
    verdicts = {"run <a>": [Verdict("Gain.", "", "")], "b": [Verdict("No gain.", "", "")]}
    outline = check(render("T", Answer(verdicts, ["Not comparable: others."], [table]), [], WHERE))
    found = [(element["tag"], element["text"]) for element in outline.of("h2", "strong", "p", "table", "th")]
    assert [item for item in found if item != ("p", "")][:6] == [
        ("h2", "run <a>"), ("strong", "Gain."), ("h2", "b"), ("strong", "No gain."),
        ("p", "Not comparable: others."), ("table", "")]  # fmt: skip
    assert [text for tag, text in found if tag == "th" and text in ("run <a>", "b", "chance")] == [
        "run <a>", "chance", "b", "chance",
    ]  # fmt: skip


TITLES = ("Size, by Elephants", "rgb, Asleep", "Rooms, by Doors", "<td>12.5</td>", "What is given", "What is answered",
          "What it thinks", "background: #c0ffee", "Savannah", "Weights")  # fmt: skip


@pytest.mark.slow
def test_the_page_shows_everything_that_an_evaluation_hands_over(evaluated: Path, tmp_path: Path) -> None:
    page = page_of(evaluated / "run", tmp_path)
    outline = check(page)
    assert all(title in page for title in TITLES)
    assert '<th scope="row">A column, %</th>' in page and "size 3" not in page
    # a curve of two points, dots, a map of embeddings; what is given once, and the answers and thoughts of two networks
    assert len(outline.of("img")) == page.count("data:image/png") == 3 + 2 * (1 + 2 + 2)
    head = next(table for table in outline.of("table") if table.get("class") == "answer")
    assert outline.found.index(head) < outline.found.index(outline.of("h2")[0])


@pytest.mark.slow
def test_a_run_with_a_verdict_and_confusions_begins_with_it_and_shows_them(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated / "run", run := tmp_path / "run")
    report = json.loads((run / "report.json").read_text())
    count = len(report["figures"]["classes"])
    counts = [[2] * count] * count
    report["figures"] |= {"verdict": ["It wins."], "confusion": {"probe": {"random weights": counts, "rgb": counts}}}
    (run / "report.json").write_text(json.dumps(report))
    outline = check(page_of(run, tmp_path))
    assert [element["text"] for element in outline.of("h1", "h2", "strong")][1] == "It wins."
    shown = {title["text"]: any(outer["tag"] == "details" for outer in title["inside"]) for title in outline.of("b")}
    assert shown["probe: rgb"] is False and shown["probe: random weights"] is True  # the student's is not folded
    assert sum("Confusion matrix of rgb" in picture["alt"] for picture in outline.of("img")) == 1


@pytest.mark.slow
def test_a_run_of_an_earlier_version_has_a_page_without_it(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated / "run", run := tmp_path / "run")
    (run / "pictures.safetensors").unlink()
    report = json.loads((run / "report.json").read_text())
    for key in ("shown", "details", "verdict", "confusion", "groups"):
        report["figures"].pop(key, None)
    for metric in report["figures"]["metrics"].values():
        metric.pop("point", None)
    for row in report["figures"]["table"].values():
        for figure in row.values():
            figure.pop("interval", None)
    (run / "report.json").write_text(json.dumps(report))
    page = page_of(run, tmp_path)
    check(page)
    assert not any(title in page for title in TITLES if title != "<td>12.5</td>")
    assert '<th scope="row">size 3, %</th>' in page and page.count("data:image/png") == 1 and "Verdict" not in page


@pytest.mark.slow
def test_two_evaluations_are_side_by_side(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated / "run", run := tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["inputs"]["data.test"] = "other"
    (run / "run.json").write_text(json.dumps(record))
    config = {"runs": [str(evaluated / "run"), str(run)], "map": "pca", "output": str(tmp_path / "report")}
    assert main(["report", str(write(tmp_path / "report.yaml", config))]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    outline = check(page)
    (head,) = (table for table in outline.of("table") if table.get("class") == "answer")
    assert len([cell for cell in outline.of("th") if cell.get("scope") == "rowgroup"]) == 2
    assert page.count("Not comparable: these evaluations were judged on different test pairs") == 1
    assert outline.found.index(head) < outline.found.index(outline.of("h2")[0])


def test_a_classifier_shows_its_validation(evaluated: Path, tmp_path: Path) -> None:
    shutil.copytree(evaluated / "student", run := tmp_path / "run")
    report = json.loads((run / "report.json").read_text())
    assert "validation pairs" not in page_of(run, tmp_path)
    share = {"accuracy": 0.75, "balanced_accuracy": 0.5, "nll": 1.0}
    judged = {"temperature": 1.5, "before": {**share, "ece": 0.2}, "after": {**share, "ece": 0.125}}
    report["figures"]["validation"] = {"pairs": 32, "unreadable": 0, **judged}
    (run / "report.json").write_text(json.dumps(report))
    text = " ".join(element["text"] for element in check(page_of(run, tmp_path / "run")).of("p"))
    assert "On 32 validation pairs: accuracy 75.0 %, balanced" in text and "50.0 %, calibration error 12.5 %" in text
    assert "with the temperature 1.50, 20.0 % without" in text


@pytest.mark.slow
def test_pictures_that_are_gone_are_an_error_that_names_them(
    evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(evaluated / "run", run := tmp_path / "run")
    (run / "pictures.safetensors").unlink()
    config = write(tmp_path / "report.yaml", {"runs": [str(run)], "map": "pca", "output": str(tmp_path / "report")})
    assert main(["report", str(config)]) == 2
    assert f"runs: {run / 'pictures.safetensors'} is missing; run crossmodal evaluate" in capsys.readouterr().err
