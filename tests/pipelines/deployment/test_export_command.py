"""`crossmodal export`: what it writes and prints, and one sentence for each mistake."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crossmodal as cm
from crossmodal import ENCODERS
from crossmodal.deployment import latency, pt2
from crossmodal.models import Card, save_model
from pipelines.__main__ import main

OPTIONS = {"size": 16, "max_m": 8.0, "fit": "crop", "invalid": 0.0, "scale_m": 0.001}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = ENCODERS.get("convnet")((1, 16, 16), 2, width=4, stages=2)
    folder = tmp_path_factory.mktemp("exported") / "student"
    card = Card("convnet", {"width": 4, "stages": 2}, (1, 16, 16), ["a", "b"], "depth", OPTIONS)
    save_model(folder, card, encoder, {})
    return folder


def test_a_program_reads_frames_of_the_camera_s_size_in_metres(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "student.pt2"
    frames = np.random.default_rng(0).uniform(0, 8, (3, 30, 40)).astype(np.float32)
    Image.fromarray((1000 * frames[0]).astype(np.uint16)).save(tmp_path / "frame.png")
    words = ["export", str(exported), "--to", "pt2", "--out", str(out), "--size", "30x40", "--maps",
             "--data", str(tmp_path / "frame.png")]  # fmt: skip
    assert main(words) == 0
    first, *_, last, use = capsys.readouterr().out.splitlines()
    assert first == "input   depth [batch, 30, 40] float32, m; no reading: 0, negative, NaN or infinite"
    assert last.startswith(f"{out}: 0.") and "the largest error is " in last and "over 25 inputs" in last
    assert use == f'program = torch.export.load("{out}").module()'
    embedding, probabilities, *maps = torch.export.load(out).module()(torch.from_numpy(frames))
    model = cm.load(exported, device="cpu")
    torch.testing.assert_close(embedding, model.embed([*frames]), atol=1e-6, rtol=1e-5)
    assert probabilities.shape == (3, 2) and len(maps) == 2
    assert [path.name for path in out.parent.iterdir()] == ["student.pt2"]


def test_a_mismatch_ends_with_exit_code_1_and_no_file_unless_tolerated(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    other = cm.load(exported, device="cpu")
    for weight in other.encoder.parameters():
        weight.data.mul_(1.01)
    monkeypatch.setattr("crossmodal.deployment.exporting.TARGETS", _wrong_targets(other))
    out = tmp_path / "student.pt2"
    assert main(["export", str(exported), "--to", "pt2", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "differs from the library's by" in captured.err and "nothing was written" in captured.err
    assert not [*tmp_path.iterdir()]
    assert main(["export", str(exported), "--to", "pt2", "--out", str(out), "--tolerance", "0.5"]) == 0
    assert out.is_file()


def _wrong_targets(other: cm.Model) -> dict[str, object]:
    from crossmodal.deployment.exporting import TARGETS
    from crossmodal.deployment.graph import Graph
    from crossmodal.deployment.targets import Target

    target = TARGETS["pt2"]
    return TARGETS | {
        "pt2": Target(".pt2", lambda graph, path: pt2.write(Graph(other).eval(), path), target.open, target.use)
    }


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--to", "onx", "--out", "a.onnx"], "invalid choice: 'onx'", 2),
        (["--to", "onnx", "--out", "a.pt2"], "--out must be a file that ends in .onnx, got a.pt2", 2),
        (["--to", "pt2", "--out", "a.pt2", "--size", "640"], "--size must be HEIGHTxWIDTH in pixels", 2),
        (["--to", "pt2", "--out", "a.pt2", "--tolerance", "0"], "--tolerance must be above 0 and below 1, got 0", 2),
        (["--to", "timm", "--out", "a.safetensors", "--maps"], "--maps and --size are for onnx and pt2", 2),
        (["--to", "pt2", "--out", "a.pt2", "--data", "none.png"], "--data: none.png: ", 2),
        (["--to", "pt2", "--out", "a.pt2", "--data", "*.png"], "--data: *.png matches no file", 2),
        (["--to", "timm", "--out", "a.safetensors"], "convnet (width 4, stages 2) is no network of timm", 1),
    ],
)
def test_a_mistake_is_one_sentence(  # noqa: PLR0917 - fixtures and parameters
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
    code: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "timm" in words:
        pytest.importorskip("timm", reason="timm is an extra")
    assert main(["export", str(exported), *words]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("to", ["onnx", "timm"])
def test_a_missing_package_is_named_with_its_extra(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    out = tmp_path / f"a.{'onnx' if to == 'onnx' else 'safetensors'}"
    assert main(["export", str(exported), "--to", to, "--out", str(out)]) == 1
    assert f"(pip install 'crossmodal-transfer[{to}]')" in capsys.readouterr().err


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--to", "pt2", "--out", str(tmp_path / "a.pt2")]) == 1
    assert "holds no exported model" in capsys.readouterr().err


def test_latency_is_a_table(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    assert main(["export", str(exported), "--to", "pt2", "--out", str(tmp_path / "a.pt2"), "--latency"]) == 0
    lines = capsys.readouterr().out.splitlines()[-7:]
    assert lines[0].startswith("milliseconds on 1 threads of the CPU")
    assert [line[:23].strip() for line in lines[1:]] == [
        f"{way:<14} batch {size}" for way in ("eager", "torch.compile", "torch.export") for size in (1, 32)
    ]
