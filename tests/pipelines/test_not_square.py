"""Views of 4 : 3, as robot cameras give them, through every stage of a transfer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crossmodal.data.shards import Shards
from crossmodal.models import load_model
from modalities import CropBox
from pipelines.__main__ import main
from pipelines.evaluation.students import taught
from pipelines.schemas import evaluate

pytestmark = pytest.mark.slow
ENCODER = {"name": "convnet", "width": 8, "stages": 2}
SIZE = {"height": 24, "width": 32}
VIEWS = {"rgb": {"modality": "rgb", **SIZE}, "depth": {"modality": "depth", **SIZE, "max_m": 8.0}}
TRAIN = {"batch_size": 16, "workers": 0, "epochs": 1}


def stage(folder: Path, pipeline: str, config: dict[str, Any]) -> str:
    path = folder / f"{pipeline}.yaml"
    path.write_text(yaml.safe_dump({**config, "output": str(folder / pipeline)}))
    assert main([pipeline, str(path)]) == 0
    return str(folder / pipeline)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    source = {"name": "synthetic", "train_pairs": 32, "test_pairs": 24, "height": 36, "width": 48,
              "modalities": ["rgb", "depth"]}  # fmt: skip
    pairs = stage(folder, "shards", {"source": source})
    data, rgb = f"{pairs}/train", {"rgb": VIEWS["rgb"]}
    teacher = stage(folder, "supervise", {"data": data, "views": rgb, "train": TRAIN,
                                          "student": {"view": "rgb", "encoder": ENCODER}})  # fmt: skip
    objectives: dict[str, Any] = {"crd": {}, "fitnet": {}, "at": {}, "ab": {}, "nst": {}}
    student = stage(folder, "transfer", {
        "data": data, "views": VIEWS, "teachers": {"rgb": {"view": "rgb", "weights": teacher}}, "train": TRAIN,
        "student": {"view": "depth", "encoder": ENCODER}, "objectives": objectives, "prepare": {"epochs": 1},
    })  # fmt: skip
    evaluation = stage(folder, "evaluate", {
        "data": {"train": data, "test": f"{pairs}/test"}, "students": {"crd": [student]}, "seeds": 1, "workers": 0,
        "few_labels": {"labels": [1], "steps": 2, "least_steps": 1, "batch_size": 8},
    })  # fmt: skip
    stage(folder, "report", {"runs": [evaluation, student, teacher, pairs], "map": "pca"})
    return folder


def test_the_exported_student_names_its_size_and_takes_pictures_as_they_are_stored(runs: Path) -> None:
    card = json.loads((runs / "transfer" / "model" / "model.json").read_text())
    assert card["shape"] == [1, 24, 32]
    assert [card["modality_options"][name] for name in ("size", "height", "width")] == [None, 24, 32]

    model, shards = load_model(runs / "transfer"), Shards.open(runs / "shards" / "test")
    _, payloads = shards.read(0, [shards.member("depth")])
    signal = model.modality.decode(payloads[shards.member("depth")])
    features = model.encoder(model.modality.normalise(model.modality.adapt(signal, CropBox())[None]))

    assert signal.shape == (1, 36, 48) and torch.isfinite(features.embedding).all()
    assert [item.shape[2:] for item in features.maps] == [(6, 8), (3, 4)]


def test_students_learn_and_the_page_shows_them(runs: Path) -> None:
    table = json.loads((runs / "evaluate" / "report.json").read_text())["figures"]["table"]
    assert {"teacher", "crd", "random weights"} <= set(table)
    assert (runs / "report" / "report.html").read_text().count("data:image/png") >= 5


def test_the_views_of_a_transfer_of_an_earlier_version_were_stretched(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "transfer", tmp_path / "transfer")
    path = tmp_path / "transfer" / "config.yaml"
    written = yaml.safe_load(path.read_text())
    for view in written["views"].values():
        assert view.pop("fit") == "crop"
    path.write_text(yaml.safe_dump(written))
    asked = evaluate.Config(evaluate.DataConfig("x", "y"), {"crd": [str(tmp_path / "transfer")]})

    for folder, fit in ((tmp_path, "stretch"), (runs, "crop")):
        found = taught(asked, str(folder / "transfer"))
        assert found is not None and {view.options["fit"] for view in found[1].views.values()} == {fit}


def test_a_default_normalisation_in_a_stored_config_gives_way_to_the_published_one(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "transfer", tmp_path / "transfer")
    path = tmp_path / "transfer" / "config.yaml"
    written = yaml.safe_load(path.read_text())
    assert written["views"]["rgb"]["mean"] == [0.485, 0.456, 0.406]
    written["views"]["rgb"]["std"] = [0.5, 0.5, 0.5]
    path.write_text(yaml.safe_dump(written))

    found = taught(evaluate.Config(evaluate.DataConfig("x", "y"), {"crd": [str(path.parent)]}), str(path.parent))
    assert found is not None
    options = found[1].views["rgb"].options
    assert "mean" not in options and tuple(options["std"]) == (0.5, 0.5, 0.5)
