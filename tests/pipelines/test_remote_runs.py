"""Runs on shards in a store are those on local shards, to the bit; no credentials are written anywhere."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import assert_equal, lines, weights, without_speed, write
from safetensors.torch import save_file
from stored import SECRET, Store, now_and_then

from crossmodal import ENCODERS
from crossmodal.data.features import FeatureShards
from pipelines.__main__ import main
from pipelines.config import ConfigError, load
from pipelines.registry import find_pipeline
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
    assert main(["shards", "--index", url]) == 2
    assert f"{url} must be a local folder" in capsys.readouterr().err
    assert main(["shards", "--info", "s3://bucket/nothing"]) == 1
    assert capsys.readouterr().err.startswith("s3://bucket/nothing holds no shards")


def test_features_and_embeddings_of_a_store_are_those_of_the_disk(
    store: Store, synthetic: Path, config: Path, tmp_path: Path
) -> None:
    url, local = store.upload(synthetic / "test", "embedded"), synthetic / "test"
    content = yaml.safe_load(config.read_text()) | {"data": str(local)}
    shared = {key: content[key] for key in ("data", "views", "teachers")} | {"crop": {"windows": 2}, "workers": 0}
    extraction = str(write(tmp_path / "features.yaml", shared))
    assert main(["features", extraction, f"output={tmp_path / 'here'}"]) == 0
    assert main(["features", extraction, f"output={tmp_path / 'there'}", f"data={url}"]) == 0
    ours, theirs = (FeatureShards.open(tmp_path / name / "rgb") for name in ("there", "here"))
    assert ours.manifest.digest == theirs.manifest.digest
    kept = store.upload(tmp_path / "here" / "rgb", "kept")
    words = ["transfer", str(config), f"data={local}", "~held_out", "train.crop.windows=2", "train.epochs=1"]
    for name, place in (("near", tmp_path / "here" / "rgb"), ("far", kept)):
        assert main([*words, f"output={tmp_path / name}", f"teachers.rgb.features={place}"]) == 0
    assert_equal(weights(tmp_path / "far"), weights(tmp_path / "near"))
    for name, place in (("near", local), ("far", url)):
        assert main(["embed", str(tmp_path / "near"), str(place), "--to", str(tmp_path / f"{name}.npz")]) == 0
    vectors = [np.load(tmp_path / f"{name}.npz") for name in ("near", "far")]
    assert np.array_equal(vectors[0]["vectors"], vectors[1]["vectors"]) and len(vectors[0]["vectors"]) == 40


@pytest.mark.parametrize(
    ("pipeline", "key"),
    [
        ("transfer", "data"),
        ("supervise", "data"),
        ("pretrain", "data"),
        ("features", "data"),
        ("certify", "data"),
        ("certify", "test"),
        ("evaluate", "data.train"),
        ("evaluate", "data.test"),
    ],
)
def test_every_config_refuses_credentials_and_takes_a_cache(pipeline: str, key: str, tmp_path: Path) -> None:
    schema = find_pipeline(pipeline).Config
    assert {item.name: item for item in fields(schema)}["cache"].metadata["free"]  # not part of the run's identity
    content: dict[str, Any] = {"data": "s3://bucket/a", "views": {"rgb": {"modality": "rgb", "size": 16}}}
    network = {"view": "rgb", "encoder": dict(NETWORK)}
    content |= {
        "transfer": {"teachers": {}, "student": network, "objectives": {"cross_entropy": {}}},
        "supervise": {"student": network},
        "pretrain": {"encoders": {"rgb": network}, "objectives": {"infonce": {}}},
        "features": {"teachers": {"rgb": {**network, "weights": "a.pt"}}, "crop": {"windows": 2}},
        "certify": {"encoder": network, "test": "s3://bucket/b"},
        "evaluate": {"data": {"train": "s3://bucket/a", "test": "s3://bucket/b"}, "students": {"a": ["runs/a"]}},
    }[pipeline]
    if pipeline == "evaluate":
        del content["views"]
    kept = ["cache.dir=/scratch", "cache.gb=200"]
    assert load(schema, content, kept).cache.gb == 200
    with pytest.raises(ConfigError, match=rf"{key} must be a URL without user, password") as caught:
        load(schema, content, [*kept, f"{key}=https://host/pairs?signature=hunter2"])
    assert "hunter2" not in str(caught.value)
