"""A classifier from a trained student: what it trains, what it refuses, what it exports; and that it resumes."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ENCODER, assert_equal, lines, start, wait_for_step, weights, without_speed, write
from commands import run as command

from crossmodal import ENCODERS, OBJECTIVES, models
from crossmodal.data.reader import open_view, sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.metrics.calibration import fit_temperature, judge_probabilities, temperature_interval
from crossmodal.modules.transfer import Term, Transfer
from pipelines.__main__ import main
from pipelines.building.labelled import open_labelled
from pipelines.config import load
from pipelines.schemas.supervise import Config

pytestmark = pytest.mark.slow
VIEW = {"modality": "depth", "size": 32, "max_m": 8.0}


@pytest.fixture(scope="module")
def student(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a depth network without classes."""
    folder = tmp_path_factory.mktemp("student")
    content = {
        "data": str(synthetic / "train"), "views": {"depth": VIEW}, "encoders": {"depth": {
            "view": "depth", "encoder": ENCODER}}, "objectives": {"infonce": {}},
        "train": {"epochs": 1, "batch_size": 32, "workers": 0}, "output": str(folder / "run"),
    }  # fmt: skip
    assert main(["pretrain", str(write(folder / "student.yaml", content))]) == 0
    return folder / "run"


@pytest.fixture
def config(synthetic: Path, student: Path, tmp_path: Path) -> Path:
    """4 steps an epoch on 72 pairs; 24 are held out."""
    content = {
        "data": str(synthetic / "train"), "views": {"depth": VIEW},
        "student": {"view": "depth", "encoder": ENCODER, "weights": str(student)}, "validation": {"share": 0.25},
        "train": {"epochs": 4, "batch_size": 16, "workers": 0, "log_every": 1, "lr": 0.01},
        "output": str(tmp_path / "run"),
    }  # fmt: skip
    return write(tmp_path / "classifier.yaml", content)


def trunk(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights(folder).items() if not name.startswith("encoder.trunk.classifier")}


def test_a_frozen_trunk_is_the_students_to_the_bit_and_its_classifier_learns(
    config: Path, student: Path, tmp_path: Path
) -> None:
    assert main(["supervise", str(config), "train.freeze=trunk", "train.ema=0.9", "train.lr=0.1"]) == 0
    assert_equal(trunk(tmp_path / "run"), weights(student))
    assert any("running_mean" in name for name in trunk(tmp_path / "run"))
    first, *_, last = lines(tmp_path / "run")
    assert last["cross_entropy"] < first["cross_entropy"] - 0.05


def test_without_freeze_all_weights_and_statistics_change(config: Path, student: Path, tmp_path: Path) -> None:
    assert main(["supervise", str(config)]) == 0
    before, after = weights(student), trunk(tmp_path / "run")
    assert before.keys() == after.keys() and not [name for name in before if torch.equal(before[name], after[name])]


def test_the_card_has_the_classes_and_the_temperature_of_the_pairs_held_out(
    config: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["supervise", str(config)]) == 0
    model, figures = models.load_model(tmp_path / "run"), json.loads((tmp_path / "run" / "report.json").read_text())
    assert model.card.classes == Shards.open(synthetic / "train").manifest.classes
    held = open_labelled(load(Config, config), ["depth"], by_class=True).validation
    assert held is not None
    view = open_view(held, "depth", size=32, max_m=8.0)
    (part,) = sweep_parts(held, {"view": view})
    with torch.inference_mode():
        logits = model.encoder(to_batch(part, {"view": view}, "cpu").inputs["view"]).logits
    assert logits is not None
    found = figures["figures"]["validation"]
    assert model.card.temperature == found["temperature"] == pytest.approx(fit_temperature(logits, part.label))
    assert found["before"] == pytest.approx(judge_probabilities(logits, part.label))
    assert found["after"] == pytest.approx(judge_probabilities(logits, part.label, found["temperature"]))
    assert found["temperature_interval"] == pytest.approx(temperature_interval(logits, found["temperature"]))
    assert found["after"]["nll"] <= found["before"]["nll"] and found["pairs"] == 24
    assert "24 pairs of validation: accuracy" in capsys.readouterr().out


def test_killed_the_same_command_ends_bit_equal(config: Path, tmp_path: Path) -> None:
    words = ("supervise", str(config), "train.freeze=trunk", "train.save_every=2", "train.epochs=10",
             "objectives={cross_entropy: {class_weights: balanced}}")  # fmt: skip
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    killed = start(*words)
    wait_for_step(tmp_path / "run", 5, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    again = command(*words)
    assert again.returncode == 0 and "run: from step" in again.stdout, again.stderr
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))
    ours, theirs = (json.loads((tmp_path / name / "model" / "model.json").read_text()) for name in ("run", "whole"))
    assert ours == theirs


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["student.encoder.name=conv5"], r"student.encoder: \S+ is a convnet, got conv5"),
        (["student.encoder.norm=group"],
         r"student.encoder: \S+ is a convnet with norm='batch' \(here 'group'\); give the same options"),
        (["views.depth.max_m=9.0"],
         r"student.view: \S+ was trained on Depth with max_m=8.0 \(here 9.0\), so it would get"),
        (["views.depth.size=16", "train.freeze=trunk"],
         r"student.view: \S+ was trained on Depth with size=32 \(here 16\)"),
        (["views.~depth=null", "views.rgb={modality: rgb, size: 32}", "student.view=rgb", "train.freeze=trunk"],
         r"student.view: \S+ was trained on Depth \(here Rgb\)"),
        (["train.freeze=trunk", "student.weights=null"], r"train.freeze needs student.weights"),
        (["train.batch_size=100"], r"train.batch_size must be from 1 to the number of pairs, 72, got 100"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_with_both_values(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["supervise", str(config), *words]) == 2
    assert re.search(told, capsys.readouterr().err)


def test_a_frozen_student_without_a_classifier_has_nothing_to_train() -> None:
    encoder = ENCODERS.get("convnet")((1, 16, 16), 0, width=4, stages=2)
    module = Transfer(encoder, "depth", {"it": Term(OBJECTIVES.get("regression")(encoder.spec, encoder.spec, 4))})
    with pytest.raises(ValueError, match="freeze: trunk trains the classifier alone, but no objective needs one"):
        module.freeze_trunk()


def test_a_trunk_that_is_trained_may_start_from_another_size_or_sensor(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["supervise", str(config), "views.depth.size=16", "train.epochs=1"]) == 0
    assert "trained on Depth with size=32 (here 16)" in capsys.readouterr().out


def test_a_classifier_of_other_classes_is_not_taken_over(
    config: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["supervise", str(config), f"output={tmp_path / 'first'}"]) == 0
    card = json.loads((tmp_path / "first" / "model" / "model.json").read_text())
    words = ["supervise", str(config), f"student.weights={tmp_path / 'first'}", "train.epochs=1"]
    capsys.readouterr()
    assert main([*words, f"output={tmp_path / 'same'}"]) == 0
    assert "; new: " not in capsys.readouterr().out
    card["classes"] = card["classes"][::-1]
    (tmp_path / "first" / "model" / "model.json").write_text(json.dumps(card))
    assert main([*words, f"output={tmp_path / 'other'}"]) == 0
    assert "; new: classifier.weight, classifier.bias" in capsys.readouterr().out


def unreadable(synthetic: Path, folder: Path, number: int) -> Path:
    """A copy of the training pairs, of which one has other bytes in its depth map."""
    shutil.copytree(synthetic / "train", folder)
    shards = Shards.open(folder)
    path, row = shards.locate(number)
    offset, size = row.members["depth.png"]
    content = bytearray(path.read_bytes())
    content[offset + size // 2] ^= 255
    path.write_bytes(content)
    return folder


def test_an_unreadable_pair_of_validation_stops_before_the_training_or_is_counted(
    config: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held: Any = open_labelled(load(Config, config), ["depth"], by_class=True).validation
    data = unreadable(synthetic, tmp_path / "broken", int(held.places[0]))
    words = ["supervise", str(config), f"data={data}", "train.epochs=1"]
    assert main(words) == 1
    assert "depth.png: its bytes changed since they were packed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*words, "train.on_error=skip"]) == 0
    assert "a pair of validation cannot be read: " in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "report.json").read_text())["figures"]["validation"]
    assert (found["pairs"], found["unreadable"]) == (23, 1)
