"""Runs on shards in a store are those on local shards, to the bit; no credentials are written anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_equal, lines, weights, without_speed, write
from safetensors.torch import save_file
from stored import SECRET, Store, now_and_then

from crossmodal import ENCODERS
from pipelines.__main__ import main
from pipelines.training.loop import Training

NETWORK = {"name": "convnet", "width": 4, "stages": 2}
pytestmark = pytest.mark.slow


@pytest.fixture
def config(synthetic: Path, tmp_path: Path) -> Path:
    """A transfer of 12 steps from a teacher of random weights."""
    torch.manual_seed(1)
    teacher = ENCODERS.get("convnet")((3, 16, 16), 0, width=4, stages=2)
    save_file({name: tensor.contiguous() for name, tensor in teacher.trunk.state_dict().items()},
              tmp_path / "teacher.safetensors")  # fmt: skip
    return write(
        tmp_path / "transfer.yaml",
        {
            "data": str(synthetic / "train"),
            "views": {"rgb": {"modality": "rgb", "size": 16}, "depth": {"modality": "depth", "size": 16, "max_m": 8.0}},
            "teachers": {
                "rgb": {"view": "rgb", "weights": str(tmp_path / "teacher.safetensors"), "encoder": dict(NETWORK)}
            },
            "student": {"view": "depth", "encoder": dict(NETWORK)},
            "objectives": {"infonce": {}},
            "held_out": {"share": 0.3},
            "train": {"epochs": 3, "batch_size": 16, "workers": 0, "log_every": 1, "save_every": 2, "lr": 1e-3},
            "output": str(tmp_path / "run"),
        },
    )


def test_a_run_begun_locally_continues_in_a_store_that_fails_and_ends_bit_equal(
    store: Store, synthetic: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, url = ["transfer", str(config)], store.upload(synthetic / "train", "continued")
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    take = Training._take

    def stop_in_the_second_epoch(training: Training, *args: Any) -> Any:
        if training.progress.step == 7:
            raise KeyboardInterrupt
        return take(training, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_take", stop_in_the_second_epoch)
        assert main(words) == 130
    assert len(lines(tmp_path / "run")) == 7
    store.fault = now_and_then(4, "reset")
    kept = ["cache.gb=0.01", f"cache.dir={tmp_path / 'cache'}"]
    assert main([*words, f"data={url}", *kept, "train.workers=2"]) == 0
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert without_speed(lines(tmp_path / "run")) == without_speed(lines(tmp_path / "whole"))
    assert store.count("GET", ".tar") > 0
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "whole")]
    assert records[0]["inputs"] == records[1]["inputs"]
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def test_credentials_in_a_url_are_refused_before_anything_is_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), "data=s3://key:hunter2@bucket/pairs"]) == 2
    printed = capsys.readouterr().err
    assert "data must be a URL without user, password" in printed and "hunter2" not in printed
    assert not (tmp_path / "run").exists()


def test_shards_in_a_store_are_described_drawn_and_checked(
    store: Store, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = store.upload(synthetic / "test", "flags/test").removesuffix("/test")
    monkeypatch.chdir(tmp_path)
    assert main(["shards", "--info", url]) == 0
    assert f"{url}/test: 40 pairs in 2 shards" in capsys.readouterr().out
    assert main(["shards", "--sheet", f"{url}/test"]) == 0
    assert capsys.readouterr().out.endswith("test-sheet.png\n") and (tmp_path / "test-sheet.png").is_file()
    assert main(["shards", "--check", url]) == 0
    assert f"{url}: nothing wrong" in capsys.readouterr().out
    assert main(["shards", "--check", "s3://key:hunter2@bucket/pairs"]) == 2
    printed = capsys.readouterr().err
    assert "must be a URL without user" in printed and "hunter2" not in printed
    assert main(["shards", "--info", "s3://bucket/nothing"]) == 1
    assert capsys.readouterr().err.startswith("s3://bucket/nothing holds no shards")
