"""What a student's start tells of what it was trained to see."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.export import Card, save_model
from crossmodal.looks import View
from modalities import MODALITIES
from pipelines._build import build_student
from pipelines._config import ConfigError
from pipelines._schema import EncoderConfig, StudentConfig

ENCODER = ENCODERS.get("convnet")((1, 32, 32), 0, width=4, stages=2)


@pytest.mark.parametrize(
    ("modality", "options", "told"),
    [
        ("depth", {"size": 32, "max_m": 8.0, "drift": 0.5, "scale_m": 1.0}, ""),
        ("depth", {"size": 32, "max_m": 9.0}, ", trained on Depth with max_m=9.0 (here 8.0)"),
        ("depth", {"max_m": 8.0, "scale": "linear"},
         ", trained on Depth with size=64 (here 32), scale='linear' (here 'log')"),
        ("luminance", {"size": 32}, ", trained on Luminance (here Depth)"),
    ],
)  # fmt: skip
def test_a_student_s_beginning_tells_what_it_was_trained_to_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], modality: str, options: dict[str, object], told: str
) -> None:
    network, given = {"width": 4, "stages": 2}, MODALITIES.get("depth")(size=32, max_m=8.0)
    card = Card("convnet", network, MODALITIES.get(modality)(**options).shape, [], modality, dict(options))
    save_model(tmp_path / "model", card, ENCODER, {})
    config = StudentConfig("own", EncoderConfig("convnet", network), weights=str(tmp_path))
    for weights in (tmp_path, tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        build_student(replace(config, weights=str(weights)), {"own": View(given)}, 0)
        assert capsys.readouterr().out == f"student begins from {weights}{told}\n"


def test_a_file_of_weights_alone_tells_nothing_of_what_it_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(ENCODER.trunk.state_dict(), tmp_path / "weights.pth")
    config = StudentConfig("own", EncoderConfig("convnet", {"width": 4, "stages": 2}), str(tmp_path / "weights.pth"))
    build_student(config, {"own": View(MODALITIES.get("depth")())}, 0)
    assert capsys.readouterr().out == f"student begins from {tmp_path / 'weights.pth'}\n"


@pytest.mark.parametrize(("modality", "options"), [("thermal", {}), ("depth", {"side": 32})])
def test_a_beginning_of_another_version_is_refused_by_its_card(
    tmp_path: Path, modality: str, options: dict[str, object]
) -> None:
    save_model(tmp_path, Card("convnet", {"width": 4, "stages": 2}, (1, 32, 32), [], modality, options), ENCODER, {})
    config = StudentConfig("own", EncoderConfig("convnet", {"width": 4, "stages": 2}), str(tmp_path))
    with pytest.raises(ConfigError, match=r"student.weights: .*model.json asks for what this version does not have: "):
        build_student(config, {"own": View(MODALITIES.get("depth")())}, 0)
