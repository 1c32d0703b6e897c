"""`crossmodal predict`: the same answers as the evaluation's, a row for every file, and plain errors."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.data.reader import open_view, sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.models import Card, load_model, save_model
from crossmodal.sources.common.listing import all_files
from modalities import MODALITIES
from pipelines.__main__ import main
from pipelines.prediction.answers import replacing

CLASSES = ["ball", "cube", "ring"]
OPTIONS = {"size": 16, "max_m": 8.0, "fit": "crop", "invalid": 0.0, "scale_m": 0.001}


def export(folder: Path, classes: list[str], temperature: float | None = 2.0, **options: Any) -> Path:
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")((1, 16, 16), len(classes), width=4, stages=2)
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 16, 16), classes, "depth", OPTIONS | options,
                temperature=temperature)  # fmt: skip
    save_model(folder, card, encoder, {})
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier of depth maps, calibrated."""
    return export(tmp_path / "model", CLASSES)


@pytest.fixture
def files(synthetic: Path, tmp_path: Path) -> Path:
    """The depth maps of all test pairs as files, under their keys."""
    folder, shards = tmp_path / "files", Shards.open(synthetic / "test")
    folder.mkdir()
    for index in range(len(shards)):
        key, members = shards.read(index, ["depth.png"])
        (folder / f"{key}.png").write_bytes(members["depth.png"])
    return folder


def rows_of(text: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(text))]


def test_files_shards_and_the_evaluation_have_the_same_answers(
    model: Path, files: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), str(files)]) == 0
    by_file = rows_of(capsys.readouterr().out)
    assert main(["predict", str(model), str(synthetic / "test"), "--batch", "7", "--workers", "2"]) == 0
    out, err = capsys.readouterr()
    by_pair = rows_of(out)
    shards, loaded = Shards.open(synthetic / "test"), load_model(model)
    view = open_view(shards, "depth", **loaded.card.modality_options)
    (part,) = sweep_parts(shards, {"view": view})
    with torch.inference_mode():
        logits = loaded.encoder(to_batch(part, {"view": view}, "cpu").inputs["view"]).logits
    assert logits is not None
    shares, answers = (logits / 2).softmax(1).max(1)
    assert [row["class"] for row in by_file] == [CLASSES[number] for number in answers.tolist()]
    assert [float(row["probability"]) for row in by_file] == pytest.approx(shares.tolist(), abs=1e-6)
    assert [row["class"] for row in by_pair] == [row["class"] for row in by_file]
    assert [float(row["probability"]) for row in by_pair] == pytest.approx(shares.tolist(), abs=2e-6)
    assert [Path(row["file"]).stem for row in by_file] == [Path(row["file"]).name for row in by_pair]
    labels = [shards.manifest.classes[label] for label in part.label.tolist()]
    assert [row["label"] for row in by_pair] == labels and {row["label"] for row in by_file} == {""}
    right = sum(row["class"] == label for row, label in zip(by_pair, labels, strict=True))
    assert f"40 classified; {right} of 40 with a label are right" in err


def test_files_are_read_in_the_unit_that_the_model_was_trained_on(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(next(files.iterdir()))
    rows = []
    for name, scale in (("as_stored", 0.001), ("of_metres", 1.0)):
        assert main(["predict", str(export(tmp_path / name, CLASSES, scale_m=scale)), path]) == int(scale == 1)
        rows += rows_of(capsys.readouterr().out)
    assert rows[0]["class"] and "does the file store millimetres (scale_m=0.001)?" in rows[1]["error"]


def test_a_file_that_cannot_be_read_has_a_row_a_line_and_exit_code_1(
    model: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "test_000002b.png").write_bytes(b"no picture")
    words = [str(files), str(tmp_path / "gone.png"), "--to", str(tmp_path / "answers.csv")]
    assert main(["predict", str(model), *words]) == 1
    out, err = capsys.readouterr()
    rows = rows_of((tmp_path / "answers.csv").read_text())
    assert out == "" and len(rows) == 42
    bad = [number for number, row in enumerate(rows) if row["error"]]
    assert bad == [3, 41] and rows[3]["class"] == "" and rows[41]["error"] == "No such file or directory"
    first, second, last = err.splitlines()
    assert first.startswith(f"{files}/test_000002b.png: depth must be a 16-bit single-channel PNG, ")
    assert second == f"{tmp_path}/gone.png: No such file or directory"
    assert last == "40 classified; 2 could not be read"


def test_what_is_no_file_is_not_waited_for(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert main(["predict", str(model), str(tmp_path / "pipe.png")]) == 1
    assert f"{tmp_path}/pipe.png: must be a file, got a folder or a device\n" in capsys.readouterr().err


def test_every_file_of_a_folder_is_classified_or_counted(
    model: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "deeper").mkdir()
    (files / "test_000000.png").rename(files / "deeper" / "frame10.PNG")
    (files / "test_000001.png").rename(files / "deeper" / "frame2.png")
    (files / "notes.txt").write_text("none")
    assert main(["predict", str(model), str(files)]) == 0
    out, err = capsys.readouterr()
    names = [row["file"] for row in rows_of(out)]
    assert len(names) == 40 == len([*all_files(files)]) - 1
    assert names.index(f"{files}/deeper/frame2.png") + 1 == names.index(f"{files}/deeper/frame10.PNG")
    assert err == f"40 classified; left out by their extension, which is not of depth: 1 ({files}/notes.txt)\n"


def test_globs_are_matched_where_the_shell_did_not(
    model: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), f"{files}/*_00000[0-4].png"]) == 0
    assert [Path(row["file"]).name for row in rows_of(capsys.readouterr().out)] == [
        f"test_00000{number}.png" for number in range(5)
    ]
    (files / "odd[1].png").write_bytes((files / "test_000000.png").read_bytes())
    assert main(["predict", str(model), f"{files}/odd[1].png"]) == 0  # there is a file of this name


def test_an_interrupted_command_leaves_the_earlier_answers_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "earlier" and [*tmp_path.iterdir()] == [path]


def test_json_lines_hold_the_same_as_csv(
    model: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "zz.png").write_bytes(b"")
    words = ["predict", str(model), str(files), "--top", "2"]
    assert main([*words, "--to", str(tmp_path / "a.jsonl")]) == main([*words, "--format", "csv"]) == 1
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for line, row in zip(lines, rows_of(capsys.readouterr().out), strict=True):
        assert [*row] == ["file", "class", "probability", "class_2", "probability_2", "label", "error"]
        assert (line["file"], line["class"] or "", line["error"] or "") == (row["file"], row["class"], row["error"])
        assert [f"{each['probability']:.6f}" for each in line["top"]] == [
            row[name] for name in ("probability", "probability_2") if row[name]
        ]
    assert lines[-1]["class"] is None and lines[-1]["top"] == []


def test_probabilities_without_a_temperature_are_said_to_be_uncalibrated(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(export(tmp_path / "raw", CLASSES, temperature=None)), str(files)]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(
        f"{tmp_path}/raw: probabilities are not calibrated, because its training fitted no temperature"
    )
    raw = [float(row["probability"]) for row in rows_of(out)]
    assert main(["predict", str(export(tmp_path / "hot", CLASSES, temperature=50.0)), str(files)]) == 0
    hot = [float(row["probability"]) for row in rows_of(capsys.readouterr().out)]
    assert all(first > second for first, second in zip(raw, hot, strict=True)) and max(hot) < 0.36


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["student", "{files}"], 2,
         "predict: student has no classes; train a classifier from it with crossmodal supervise (student.weights: st"),
        (["nowhere", "{files}"], 1, "nowhere holds no exported model (model.json and model.safetensors); there is no"),
        (["model"], 2, "predict: the following arguments are required: FILE"),
        (["model", "{files}/*.jpg"], 2, "predict: {files}/*.jpg matches no file"),
        (["model", "model"], 2, "predict: model holds no file of depth (png, npy, npz, tif, tiff, exr, pfm); it"),
        (["model", "{files}", "--to", "answers.txt"], 2, "predict: --to must end in .csv or .jsonl"),
        (["model", "{files}", "--to", "a.csv", "--format", "jsonl"], 2, "predict: --to a.csv contradicts --format"),
        (["model", "{files}", "--to", "model"], 2, "predict: --to must be a file, but model is a folder"),
        (["model", "{files}", "--to", "no/a.csv"], 1, "could not write no/a.csv: No such file or directory"),
        (["model", "{files}", "--top", "0"], 2, "predict: argument --top: must be a whole number of at least 1, got 0"),
        (["model", "{files}", "--tpo", "1"], 2, "predict: unrecognized arguments: --tpo"),
        (["model", "{synthetic}"], 1, "{synthetic} holds the shards of test, train: name one of them"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_what_to_do(
    files: Path,
    synthetic: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    words: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(model.parent)
    export(model.parent / "student", [])
    fill = {"files": files, "synthetic": synthetic}
    assert main(["predict", *(word.format(**fill) for word in words)]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(told.format(**fill)) and err.count("\n") == 1
    assert not list(model.parent.glob(".*"))


def test_shards_of_another_unit_are_refused(
    tmp_path: Path, synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = export(tmp_path / "other", CLASSES, scale_m=0.002)
    assert main(["predict", str(other), str(synthetic / "test")]) == 1
    assert "scale_m must be 0.001, as the manifest of" in capsys.readouterr().err


def test_a_temperature_of_0_is_refused(model: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | {"temperature": 0.0}))
    assert main(["predict", str(model), str(files)]) == 1
    assert capsys.readouterr().err == f"{model}/model.json: temperature must be above 0, got 0\n"


def test_a_model_gives_probabilities_that_sum_to_one(model: Path) -> None:
    loaded = load_model(model)
    signals = MODALITIES.get("depth")(**OPTIONS)
    batch = 1 + torch.rand(5, *signals.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert loaded.probabilities(batch).sum(1).tolist() == pytest.approx([1] * 5)
