"""docs/deployment.md, followed literally: its Python runs on the files that its commands write."""

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from crossmodal import ENCODERS
from crossmodal.models import Card, save_model
from pipelines.__main__ import main

PAGE = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
ONNX, TORCH, DETECTOR = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a student, and the page's torch program."""
    folder = tmp_path_factory.mktemp("deployment")
    torch.manual_seed(0)
    options = {"width": 8, "stages": 4}
    card = Card("convnet", options, (1, 64, 64), ["a", "b"], "depth", {"size": 64})
    save_model(
        folder / "runs" / "doom" / "student" / "model", card, ENCODERS.get("convnet")((1, 64, 64), 2, **options), {}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def run(code: str, command: str | None = None) -> dict[str, object]:
    if command is not None:
        assert main(shlex.split(command)) == 0
    Path("page.py").write_text(code, encoding="utf-8")
    return runpy.run_path("page.py")


def command(to: str) -> str:
    found, *_ = re.findall(rf"crossmodal (export runs/doom/student --to {to} --out student\.\w+)", PAGE)
    return str(found)


def test_onnxruntime_alone_takes_metres_in_ten_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX needs the extra onnx")
    names = run(ONNX, command("onnx"))
    assert names["embedding"].shape == (2, 64) and "probabilities" in capsys.readouterr().out
    assert "torch" not in ONNX and "crossmodal" not in ONNX and len(ONNX.split("\n\n")[-1].splitlines()) <= 10


def test_torch_alone_takes_metres(folder: Path) -> None:
    names = run(TORCH, command("pt2"))
    assert names["embedding"].shape == (2, 64) and '"unit": "m"' in names["facts"]["model.json"].replace("\\", "")


def test_a_student_is_the_backbone_of_a_detector_of_torchvision(folder: Path) -> None:
    names = run(DETECTOR)
    backbone, detector = names["backbone"], names["detector"]
    assert (backbone.channels, backbone.strides) == ([16, 32, 64], [8, 16, 32])
    assert names["loss"].item() < names["losses"][0]
    detector.eval()
    with torch.inference_mode():
        found = detector(names["frames"])
    assert len(found) == 2 and found[0]["boxes"].shape[1:] == (4,)
