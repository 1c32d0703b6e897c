"""Dense transfer as runs: calibration, resumption, processes, cached maps, dense supervision, refusals."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_equal, launch, lines, run, start, wait_until, weights, without_speed, write
from safetensors.torch import save_file

from crossmodal import ENCODERS, SOURCES
from crossmodal.data.writer import write_shards
from pipelines.__main__ import main

pytestmark = pytest.mark.slow
TEACHER = {"name": "convnet", "width": 8, "stages": 3}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of 32 pixels with label maps."""
    folder = tmp_path_factory.mktemp("dense")
    source = SOURCES.get("synthetic")(modalities=("rgb", "depth", "labels"), train_pairs=64, test_pairs=8, size=32)
    write_shards(source.pairs("train"), folder / "train", fields=source.fields(), classes=source.classes())
    return folder / "train"


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> Path:
    """Four steps of a student without batch norm, whose statistics would be each process's own."""
    torch.manual_seed(1)
    teacher = ENCODERS.get("convnet")((3, 32, 32), 0, width=8, stages=3)
    save_file({name: tensor.contiguous() for name, tensor in teacher.trunk.state_dict().items()},
              tmp_path / "teacher.safetensors")  # fmt: skip
    return write(
        tmp_path / "transfer.yaml",
        {
            "data": str(shards),
            "views": {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}},
            "teachers": {"rgb": {"view": "rgb", "encoder": TEACHER, "weights": str(tmp_path / "teacher.safetensors")}},
            "student": {"view": "depth", "encoder": {"name": "conv5", "width": 4, "norm": "none"}},
            "objectives": {"patch": {"dim": 8}, "gram": {}, "patch_contrast": {"places": 4, "dim": 8}, "crd": {}},
            "train": {"epochs": 2, "batch_size": 32, "workers": 0, "log_every": 1, "optimiser": "sgd", "lr": 1e-3},
            "output": str(tmp_path / "run"),
        },
    )


def test_killed_after_the_calibration_the_same_command_ends_bit_equal(config: Path, tmp_path: Path) -> None:
    words = ("transfer", str(config), "train.ema=0.9")
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    killed = start(*words)
    wait_until((tmp_path / "run" / "checkpoints" / "step_000000000.pt").exists, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    again = run(*words)
    assert again.returncode == 0, again.stderr
    assert "measuring" not in again.stdout
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))


def test_two_processes_calibrate_and_train_with_the_losses_of_one(config: Path, tmp_path: Path) -> None:
    assert main(["transfer", str(config), f"output={tmp_path / 'one'}"]) == 0
    launched = launch("transfer", str(config), f"output={tmp_path / 'two'}")
    assert launched.returncode == 0, launched.stderr
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        for name in ("patch", "gram", "patch_contrast"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4)


@pytest.mark.parametrize("stages", [None, [1, 2]])
def test_cached_maps_equal_a_running_teacher(
    config: Path, shards: Path, tmp_path: Path, stages: list[int] | None
) -> None:
    asked = {"data": str(shards), "views": {"rgb": {"modality": "rgb", "size": 32}},
             "teachers": {"rgb": {"view": "rgb", "encoder": TEACHER, "weights": str(tmp_path / "teacher.safetensors")}},
             "crop": {"windows": 2}, "workers": 0, "maps": True, "stages": stages, "dtype": "float32",
             "output": str(tmp_path / "features")}  # fmt: skip
    assert main(["features", str(write(tmp_path / "features.yaml", asked))]) == 0
    words = ["transfer", str(config), "train.crop.windows=2"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    cached = f"teachers.rgb.features={tmp_path / 'features' / 'rgb'}"
    assert main([*words, cached, f"output={tmp_path / 'cached'}"]) == 0
    for ours, theirs in zip(lines(tmp_path / "cached"), lines(tmp_path / "running"), strict=True):
        for name in ("patch", "gram", "patch_contrast"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


def test_exported_heads_come_back_with_their_normalisation(config: Path, tmp_path: Path) -> None:
    from crossmodal.models import load_model

    assert main(["transfer", str(config)]) == 0
    (target, _) = load_model(tmp_path / "run").heads["patch"].targets
    assert target.mean.isfinite().all() and target.mean.abs().max() > 0


def test_the_student_learns_from_label_maps_alone(shards: Path, tmp_path: Path) -> None:
    supervise = write(tmp_path / "supervise.yaml", {
        "data": str(shards),
        "views": {name: {"modality": name, "size": 32} for name in ("rgb", "labels")},
        "student": {"view": "rgb", "encoder": TEACHER},
        "objectives": {"pixel_cross_entropy": {"classes": 9}},
        "train": {"epochs": 12, "batch_size": 32, "workers": 0, "log_every": 1, "lr": 3e-3},
        "output": str(tmp_path / "dense"),
    })  # fmt: skip
    assert main(["supervise", str(supervise)]) == 0
    told = lines(tmp_path / "dense")
    assert told[-1]["loss"] < 0.6 * told[0]["loss"]
    assert not any(name.startswith("encoder.trunk.classifier") for name in weights(tmp_path / "dense"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["objectives.patch.maps=[[0, 5]]"],
            "objectives.patch: patch: maps must be pairs of a student's map from 0 to 4",
        ),
        (["views.depth.aligned=false"], "objectives.patch compares maps place by place, so views 'depth' and 'rgb'"),
        (["train.chunk=8"], "patch"),
        (["objectives.pixel_cross_entropy.classes=9"], "objectives.pixel_cross_entropy.view must be one of the views"),
        (
            ["objectives.pixel_cross_entropy={classes: 9, view: rgb}"],
            "objectives.pixel_cross_entropy.view must be a view of modality labels, got 'rgb'",
        ),
        (
            ["views.labels={modality: labels, size: 32}", "objectives.pixel_cross_entropy.classes=4"],
            "objectives.pixel_cross_entropy.classes must be 9, the number of classes of view 'labels', got 4",
        ),
    ],
)
def test_a_mistake_in_a_dense_transfer_is_one_clear_line(
    config: Path, tmp_path: Path, overrides: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), *overrides]) == 2
    told: Any = capsys.readouterr().err
    assert words in told and "Traceback" not in told
    assert not (tmp_path / "run").exists()
