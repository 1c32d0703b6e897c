"""Teacher features, once: the windows they are of, their shards, and transfers that read them."""

import gc
import io
import json
import shutil
import signal
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from commands import ENCODER, launch, lines, start, wait_until, write

from crossmodal import ENCODERS, models
from crossmodal.checkpoint import WriteError
from crossmodal.data.extraction import Extract, batches_of, crop_batches
from crossmodal.data.feature_writer import FeatureTar
from crossmodal.data.features import FeatureShards, put_together, round_rows, take_apart
from crossmodal.data.manifest import ShardError
from crossmodal.data.reader import open_view, read_pair, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop
from modalities.rgb import Rgb
from pipelines import evaluate
from pipelines.__main__ import main
from pipelines.config import ConfigError, load
from pipelines.registry import find_pipeline

VIEWS = {"rgb": {"modality": "rgb", "size": 32}, "depth": {"modality": "depth", "size": 32, "max_m": 8.0}}
WINDOWS = 3


@pytest.fixture(scope="module")
def teacher(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an RGB teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    config = {
        "data": str(synthetic / "train"),
        "views": {"rgb": VIEWS["rgb"]},
        "student": {"view": "rgb", "encoder": ENCODER},
        "train": {"epochs": 3, "batch_size": 32, "lr": 0.003, "workers": 0},
        "output": str(folder / "run"),
    }
    assert main(["supervise", str(write(folder / "teacher.yaml", config))]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def extraction(synthetic: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of an extraction of three windows a pair, which has been run; its folder is `features` beside it."""
    folder = tmp_path_factory.mktemp("extraction")
    config = {
        "data": str(synthetic / "train"),
        "views": {"rgb": VIEWS["rgb"]},
        "teachers": {"rgb": {"view": "rgb", "weights": str(teacher)}},
        "crop": {"windows": WINDOWS},
        "workers": 0,
        "output": str(folder / "features"),
    }
    path = write(folder / "features.yaml", config)
    assert main(["features", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def kept(extraction: Path) -> Path:
    """The folder of the teacher's features."""
    return extraction.parent / "features" / "rgb"


@pytest.fixture
def config(synthetic: Path, teacher: Path, tmp_path: Path) -> Path:
    """A transfer of 12 steps whose teacher runs."""
    return write(
        tmp_path / "transfer.yaml",
        {
            "data": str(synthetic / "train"),
            "views": VIEWS,
            "teachers": {"rgb": {"view": "rgb", "weights": str(teacher)}},
            "student": {"view": "depth", "encoder": ENCODER},
            "objectives": {"crd": {"weight": 0.8, "negatives": {"count": 40}}, "kd": {"weight": 0.5}},
            "train": {
                "epochs": 4,
                "batch_size": 32,
                "lr": 1e-3,
                "workers": 0,
                "log_every": 1,
                "crop": {"windows": WINDOWS},
            },
            "output": str(tmp_path / "run"),
        },
    )


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder)]


# --- windows ---


def test_few_labels_always_sees_new_windows(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("{data: {train: a, test: b}, students: {crd: [c]}}")
    with pytest.raises(ConfigError, match=r"few_labels.crop.windows must be null \(a new crop every time\), got 2"):
        load(evaluate.Config, tmp_path / "e.yaml", ["few_labels.crop.windows=2"])


def test_looks_are_those_of_the_first_epochs(synthetic: Path) -> None:
    shards, crop = Shards.open(synthetic / "train"), Crop(windows=WINDOWS)
    views = {"rgb": open_view(shards, "rgb", size=16)}
    extract = Extract(shards, views, crop, 5, [*batches_of(shards, 1, 10), *batches_of(shards, 3, 10)])
    assert [list(batch) for batch in extract.batches][2:4] == [[45, 46, 47, 48, 49], [*range(75, 85)]]
    for workers in (0, 2):
        found = list(crop_batches(extract, workers=workers))
        assert [len(crops.keys) for crops in found] == [10, 10, 5, 10, 10, 1]
        part = found[3].part
        assert part is not None and part.index.tolist() == [index for index in range(75, 85) for _ in range(WINDOWS)]
        for window in range(WINDOWS):
            alone = read_pair(shards, views, 76, crop=crop, address=(5, window))
            assert torch.equal(part.adapted["rgb"][WINDOWS + window], alone.adapted["rgb"][0])
            assert torch.equal(part.draws["rgb"][WINDOWS + window], alone.draws["rgb"][0])


# --- the format ---


def test_members_are_what_the_teacher_says_of_every_window(synthetic: Path, teacher: Path, kept: Path) -> None:
    shards, model = Shards.open(synthetic / "train"), models.load_model(teacher)
    views = {"rgb": open_view(shards, "rgb", size=32)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves closing its files to the collector
        rows = list(webdataset.WebDataset(str(kept / "000001.tar"), shardshuffle=False).decode())
        gc.collect()
    assert len(rows) == 25
    for index in (0, 24):
        key = shards.locate(25 + index)[1].key
        assert rows[index]["__key__"] == key
        for window in range(WINDOWS):
            part = read_pair(shards, views, 25 + index, crop=Crop(), address=(0, window))
            with torch.no_grad():
                features = model.encoder(to_batch(part, views, "cpu").inputs["rgb"])
            read = FeatureShards.open(kept).read(25 + index, key, window)
            for name, truth in (("embedding", features.embedding), ("logits", features.logits)):
                assert rows[index][f"{name}.npy"].dtype == np.float16
                stored = torch.from_numpy(rows[index][f"{name}.npy"][window])
                torch.testing.assert_close(stored.float(), truth[0], atol=1e-4, rtol=1e-3)  # half precision
                assert torch.equal(read[name], stored[None])


@pytest.mark.parametrize("preactivations", [False, True])
def test_maps_are_kept_where_they_are_asked_for(extraction: Path, tmp_path: Path, preactivations: bool) -> None:
    words = ["maps=true", f"preactivations={str(preactivations).lower()}", f"output={tmp_path / 'features'}"]
    assert main(["features", str(extraction), *words, "crop.windows=1", "dtype=float32"]) == 0
    held = FeatureShards.open(tmp_path / "features" / "rgb")
    features = put_together(held.read(30, held.shards.locate(30)[1].key, 0))
    assert held.manifest.spec.maps == tuple(tuple(item.shape[1:]) for item in features.maps)
    assert features.stem is not None and len(features.preactivations) == (len(features.maps) if preactivations else 0)
    again = put_together(take_apart(features, held.manifest.spec))
    assert all(torch.equal(one, two) for one, two in zip(features.maps, again.maps, strict=True))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 70000.0]], "got numbers up to 7e\\+04 in a row, which float16 cannot hold"),
        ([[1.0, 2.0], [1e-9, 2e-9]], "got numbers up to 2e-09 in a row, which float16 cannot hold"),
        ([[1.0, float("nan")]], "got numbers that are not finite"),
        ([[1.0, -float("inf")]], "got numbers that are not finite"),
    ],
)
def test_numbers_that_half_precision_loses_are_refused(rows: list[list[float]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        round_rows(torch.tensor(rows), torch.float16)


def test_numbers_that_half_precision_holds_are_rounded() -> None:
    rows = torch.cat([torch.zeros(1, 9), torch.randn(40, 9) * torch.logspace(-4, 4, 40)[:, None]])
    assert torch.equal(round_rows(rows, torch.float16), rows.half())
    assert torch.equal(round_rows(rows * 1e30, torch.float32), rows * 1e30)


def test_an_overflow_stops_the_extraction_and_names_what_to_do(
    extraction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = ENCODERS.get("convnet")((3, 32, 32), 4, width=8, stages=3)
    with torch.no_grad():
        encoder.trunk.state_dict()[f"{encoder.classifier}weight"].mul_(1e8)
    torch.save(encoder.trunk.state_dict(), tmp_path / "loud.pth")
    network = {"weights": str(tmp_path / "loud.pth"), "encoder": ENCODER, "classes": 4}
    words = ["features", str(extraction), f"teachers.rgb={json.dumps(network)}", f"output={tmp_path / 'features'}"]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "teachers.rgb: logits: got numbers up to" in told and "set dtype=float32 and another output" in told
    assert not list((tmp_path / "features").rglob("*.tar"))
    assert main([*words[:-1], "dtype=float32", f"output={tmp_path / 'wide'}"]) == 0


# --- transfers ---


def test_losses_are_those_of_the_running_teacher(config: Path, extraction: Path, kept: Path, tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    assert main(["features", str(extraction), "dtype=float32", f"output={wide}"]) == 0
    assert main(["transfer", str(config), f"output={tmp_path / 'running'}"]) == 0
    assert main(["transfer", str(config), f"teachers.rgb.features={kept}", f"output={tmp_path / 'half'}"]) == 0
    assert main(["transfer", str(config), f"teachers.rgb.features={wide}/rgb", f"output={tmp_path / 'whole'}"]) == 0
    truth = losses(tmp_path / "running")
    assert len(truth) == 12
    assert losses(tmp_path / "whole") == pytest.approx(truth, rel=1e-5)
    assert losses(tmp_path / "half") == pytest.approx(truth, rel=1e-3)
    assert losses(tmp_path / "half") != losses(tmp_path / "whole")  # they are not the running teacher's


def test_losses_on_maps_are_those_of_the_running_teacher(config: Path, extraction: Path, tmp_path: Path) -> None:
    assert main(["features", str(extraction), "maps=true", f"output={tmp_path / 'maps'}"]) == 0
    words = ["transfer", str(config), "objectives.at={}", "train.epochs=2", "train.workers=2"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, f"teachers.rgb.features={tmp_path / 'maps' / 'rgb'}", f"output={tmp_path / 'kept'}"]) == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "running"), rel=1e-3)


def test_a_student_on_the_teachers_view_sees_what_the_teacher_saw(config: Path, kept: Path, tmp_path: Path) -> None:
    words = ["transfer", str(config), "student.view=rgb"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, f"teachers.rgb.features={kept}", f"output={tmp_path / 'kept'}"]) == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "running"), rel=1e-3)


def test_a_run_no_longer_than_the_windows_is_the_one_without_a_number(config: Path, kept: Path, tmp_path: Path) -> None:
    words = ["transfer", str(config), "train.crop.windows=null", f"train.epochs={WINDOWS}"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, f"teachers.rgb.features={kept}", f"output={tmp_path / 'kept'}"]) == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "running"), rel=1e-3)


def test_one_teacher_may_be_kept_and_another_run(config: Path, teacher: Path, kept: Path, tmp_path: Path) -> None:
    words = ["transfer", str(config), "train.epochs=2", f"teachers.first={{view: rgb, weights: {teacher}}}"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, f"teachers.first.features={kept}", f"output={tmp_path / 'kept'}"]) == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "running"), rel=1e-3)


def test_pairs_held_out_leave_each_pair_its_own_features(config: Path, kept: Path, tmp_path: Path) -> None:
    words = ["transfer", str(config), "held_out.share=0.3", "train.batch_size=16", "train.epochs=2"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, f"teachers.rgb.features={kept}", f"output={tmp_path / 'kept'}"]) == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "running"), rel=1e-3)


def test_the_teachers_view_is_not_even_decoded(
    config: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rgb, "decode", lambda *_: pytest.fail("a picture was decoded"))
    assert main(["transfer", str(config), f"teachers.rgb.features={kept}"]) == 0
    assert (tmp_path / "run" / "model" / "model.json").is_file()


def test_a_student_of_kept_features_is_evaluated_beside_its_teacher(
    config: Path, synthetic: Path, kept: Path, tmp_path: Path
) -> None:
    assert main(["transfer", str(config), f"teachers.rgb.features={kept}"]) == 0
    asked = {
        "data": {"train": str(synthetic / "train"), "test": str(synthetic / "test")},
        "students": {"kept": [str(tmp_path / "run")]},
        "few_labels": None, "seeds": 1, "workers": 0, "output": str(tmp_path / "evaluation"),
    }  # fmt: skip
    assert main(["evaluate", str(write(tmp_path / "evaluation.yaml", asked))]) == 0
    table = json.loads((tmp_path / "evaluation" / "report.json").read_text())["figures"]["table"]
    assert "crd.to_teacher.R@1" in table["kept"]


def test_objectives_on_maps_that_are_not_kept_are_refused_by_name(
    config: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["transfer", str(config), f"teachers.rgb.features={kept}"]
    assert main([*words, "objectives.at={}"]) == 2
    told = capsys.readouterr().err
    assert "objectives.at: at" in told
    assert "Only embedding, logits of 'rgb' are cached: cache more (crossmodal features with maps=true" in told
    assert main([*words, "objectives.kd.temperature=0"]) == 2  # no map would help here
    assert "are cached" not in capsys.readouterr().err


# --- stale features ---


@pytest.fixture
def extracted(extraction: Path, tmp_path: Path) -> Path:
    """A copy of the whole run."""
    return Path(shutil.copytree(extraction.parent / "features", tmp_path / "extracted"))


@pytest.mark.parametrize(
    ("words", "differs"),
    [
        (["seed=1"], "seed: 0 before, 1 now"),
        (["train.crop.flip=0.25"], "crop.flip: 0.5 before, 0.25 now"),
        (["train.crop.scale=[0.5, 1.0]"], "crop.scale: [0.6, 1.0] before, [0.5, 1.0] now"),
        (["views.rgb.jitter=0.0"], "preprocessing.jitter: 0.8 before, 0.0 now"),
        (["views.rgb.aligned=false"], "preprocessing.aligned: true before, false now"),
        (["views.eye={modality: rgb, size: 32}", "teachers.rgb.view=eye"], 'view: "rgb" before, "eye" now'),
        (["train.crop.windows=null"], "windows: 3 before, 4 now"),
    ],
)
def test_features_of_something_else_are_refused_until_they_are_made_again_with_what_differs(
    config: Path, extracted: Path, words: list[str], differs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [word.removeprefix("train.").replace("windows=null", "windows=4") for word in words]
    words = ["transfer", str(config), *words]
    assert main([*words, f"teachers.rgb.features={extracted / 'rgb'}"]) == 2
    told = capsys.readouterr().err
    assert f"teachers.rgb.features: {extracted / 'rgb'} holds other features than this transfer needs" in told
    assert differs in told and not (config.parent / "run").exists()
    assert ", or set train.crop.windows=3" in told or "windows: " not in differs
    assert main(["features", str(extracted / "config.yaml"), *changed, f"output={extracted}.renewed"]) == 0
    assert main([*words, f"teachers.rgb.features={extracted}.renewed/rgb"]) == 0


def test_features_of_an_earlier_version_are_of_stretched_pictures(
    config: Path, extracted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = extracted / "rgb" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("fit", "height", "width"):
        del manifest["origin"]["preprocessing"][name]
    path.write_text(json.dumps(manifest))
    words = ["transfer", str(config), "train.crop.windows=3", f"teachers.rgb.features={extracted / 'rgb'}"]

    assert main(words) == 2
    told = capsys.readouterr().err
    assert 'preprocessing.fit: "stretch" before, "crop" now' in told and "preprocessing.height" not in told
    assert main([*words, "views.rgb.fit=stretch"]) == 0


def test_features_of_other_data_and_weights_are_refused(
    config: Path, teacher: Path, synthetic: Path, extracted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(teacher, config.parent / "teacher"))
    card = json.loads((other / "model" / "model.json").read_text())
    (other / "model" / "model.json").write_text(json.dumps(card))  # the same, written otherwise: other bytes
    words = ["transfer", str(config), f"teachers.rgb.weights={other}", f"data={synthetic / 'test'}", "seed=1"]
    words.append("train.crop.windows=null")
    assert main([*words, f"teachers.rgb.features={extracted / 'rgb'}"]) == 2
    told = capsys.readouterr().err
    for key, digests in {
        "data": [Shards.open(synthetic / part).manifest.digest for part in ("train", "test")],
        "weights": [models.digest(folder) for folder in (teacher, other)],
    }.items():
        assert f'{key}: "{digests[0]}" before, "{digests[1]}" now' in told
    assert "or set train.crop.windows" not in told  # that alone would not help


def test_features_of_another_network_for_the_same_file_are_refused(
    config: Path, extraction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = ENCODERS.get("convnet")((3, 32, 32), 0, width=8, stages=3)
    torch.save(encoder.trunk.state_dict(), tmp_path / "published.pth")
    network = {"weights": str(tmp_path / "published.pth"), "encoder": ENCODER}
    first = ["features", str(extraction), f"teachers.rgb={json.dumps(network)}", f"output={tmp_path / 'features'}"]
    assert main(first) == 0
    words = ["transfer", str(config), "~objectives.kd", f"teachers.rgb={json.dumps(network)}"]
    words.append(f"teachers.rgb.features={tmp_path / 'features' / 'rgb'}")
    assert main([*words, "teachers.rgb.first_layer=mean"]) == 2
    assert 'network.first_layer: "sum" before, "mean" now' in capsys.readouterr().err
    assert main(words) == 0


def test_fewer_windows_than_needed_are_told(config: Path, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", str(config), f"teachers.rgb.features={kept}", "train.crop.windows=4"]) == 2
    assert "or set train.crop.windows=3" in capsys.readouterr().err
    assert main(["transfer", str(config), f"teachers.rgb.features={kept}", "train.crop.windows=2"]) == 0


def test_renewed_features_are_another_run(
    config: Path, extraction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(extraction.parent / "features", tmp_path / "features")) / "rgb"
    assert main(["transfer", str(config), f"teachers.rgb.features={folder}"]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main(["transfer", str(config), f"teachers.rgb.features={folder}"]) == 2
    assert "teachers.rgb.features: its content changed since" in capsys.readouterr().err


# --- damage ---


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "copied"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20_000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: cut(folder / "000002.tar"), "000002.tar must have 61440 bytes by its manifest, got 41440"),
        (lambda folder: (folder / "000002.tar").unlink(), "000002.tar is missing, though"),
        (
            lambda folder: (folder / "manifest.json").unlink(),
            "manifest.json is missing; make features with: crossmodal",
        ),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "is not a manifest of features: format must be"),
        (lambda folder: (folder / "manifest.json").write_text("["), "is not a manifest of features: "),
    ],
)
def test_a_damaged_folder_is_refused_at_the_start(
    config: Path, copied: Path, damage: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copied)
    assert main(["transfer", str(config), f"teachers.rgb.features={copied}"]) == 2
    told = capsys.readouterr().err
    assert "teachers.rgb.features: " in told and words in told and "Traceback" not in told
    assert not (config.parent / "run").exists()


def test_the_folder_of_the_whole_run_is_no_teachers(
    config: Path, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transfer", str(config), f"teachers.rgb.features={kept.parent}"]) == 2
    assert "manifest.json is missing; give the folder of one teacher: rgb" in capsys.readouterr().err


def test_a_record_of_another_pair_is_refused(kept: Path) -> None:
    held = FeatureShards.open(kept)
    key = held.shards.locate(30)[1].key
    with pytest.raises(ShardError, match=rf"000001.tar: record 30 must be of pair 'x', got '{key}'"):
        held.read(30, "x", 0)
    with pytest.raises(IndexError, match="window must be from 0 to 2, got 3"):
        held.read(30, key, 3)


def test_a_member_of_another_size_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["spec"]["dim"] = 31
    (copied / "manifest.json").write_text(json.dumps(manifest))
    held = FeatureShards.open(copied)
    with pytest.raises(ShardError, match=r"must have 3 x \(31,\) numbers in embedding.npy, got 320 bytes"):
        held.read(30, held.shards.locate(30)[1].key, 0)


def test_check_names_what_changed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "--check", str(copied)]) == 0
    payload = bytearray((copied / "000001.tar").read_bytes())
    payload[1000] ^= 1
    (copied / "000001.tar").write_bytes(payload)
    cut(copied / "000003.tar")
    assert main(["features", "--check", str(copied)]) == 1
    told = capsys.readouterr().out
    assert "000001.tar: its bytes changed since it was written" in told
    assert "000003.tar: must have 51200 bytes by the manifest, got 31200" in told


def test_info_says_what_they_were_made_from(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "--info", str(kept.parent)]) == 0
    told = capsys.readouterr().out
    assert "96 pairs (0 unreadable) in 4 shards" in told
    assert "3 windows a pair, float16: embedding [32], logits [8]" in told
    assert "crop.flip: 0.5" in told and "crop.shift: 0.0" in told and "preprocessing.size: 32" in told


@pytest.fixture
def damaged(synthetic: Path, tmp_path: Path) -> Path:
    """One unreadable picture, of pair 30, and a whole shard that is gone, of pairs 50 to 74."""
    folder = Path(shutil.copytree(synthetic / "train", tmp_path / "data"))
    path, row = Shards.open(folder).locate(30)
    with path.open("r+b") as file:
        file.seek(row.members["rgb.jpg"][0])
        file.write(b"garbage!" * 4)
    (folder / "000002.tar").unlink()
    return folder


def test_unreadable_pairs_stop_the_extraction_or_are_counted(
    config: Path, extraction: Path, damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["features", str(extraction), f"data={damaged}", f"output={tmp_path / 'features'}"]
    assert main(words) == 1
    assert "000001.tar: pair 'train_000030', rgb.jpg: " in capsys.readouterr().err
    assert main([*words, "on_error=skip"]) == 0  # in the same folder
    assert "left without features: " in capsys.readouterr().err
    assert main(words) == 2
    assert 'on_error: "skip" before, "stop" now' in capsys.readouterr().err
    folder = tmp_path / "features" / "rgb"
    held = FeatureShards.open(folder)
    assert held.manifest.unreadable == 26
    with pytest.raises(ShardError, match=r"pair 'train_000030' has no 'embedding.npy'; it has json"):
        held.read(30, "train_000030", 0)
    assert b"rgb.jpg" in held.shards.read(30, ["json"])[1]["json"]
    words = ["transfer", str(config), f"data={damaged}", "train.on_error=skip"]
    assert main([*words, f"output={tmp_path / 'running'}"]) == 0
    assert main([*words, f"teachers.rgb.features={folder}", f"output={tmp_path / 'kept'}"]) == 0
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "running"), rel=1e-3)
    for name in ("running", "kept"):
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert report["figures"]["unreadable_replaced"] == 4 * 26


# --- configs ---


def test_the_example_in_the_docs_is_an_extraction(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "concepts.md").read_text(encoding="utf-8")
    (tmp_path / "example.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    assert load(find_pipeline("features").Config, tmp_path / "example.yaml").crop.windows == 4


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["crop.windows=null"], "crop.windows must be given: the number of crops per pair to cache"),
        (["crop.windows=0"], "crop.windows must be at least 1, got 0"),
        (["teachers.rgb.view=rbg"], "teachers.rgb.view must be one of the views, got 'rbg'; did you mean 'rgb'?"),
        (["teachers.rgb.features=x"], "teachers.rgb.features must be null: this pipeline computes"),
        (["~teachers.rgb"], "teachers must name at least one teacher"),
        (
            ["teachers={a.b: {view: rgb, weights: x}}"],
            "teachers.a.b needs another name: use letters, digits",
        ),
        (["preactivations=true"], "preactivations needs maps: true"),
        (["teachers.rgb.weights=nowhere"], "teachers.rgb.weights: nowhere holds no exported model"),
        (["views.rgb.size=16"], "the teacher was trained on Rgb of shape (3, 32, 32), the view gives Rgb of shape"),
        (["data=nowhere"], "data: nowhere/manifest.json is missing"),
        (["dtype=bfloat16"], "dtype must be one of 'float16', 'float32', got 'bfloat16'"),
    ],
)
def test_a_users_mistake_is_one_clear_line(
    extraction: Path, tmp_path: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["features", str(extraction), *words, f"output={tmp_path / 'new'}"]) == 2
    told = capsys.readouterr().err
    assert answer in told and "Traceback" not in told
    assert not (tmp_path / "new").exists()


# --- runs ---


def test_finished_features_are_not_made_again(extraction: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = extraction.parent / "features"
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["features", str(extraction), "workers=1", "batch_size=7"]) == 0  # they change nothing
    assert "finished before; nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written
    figures = json.loads((folder / "report.json").read_text())["figures"]
    assert figures["teachers"]["rgb"]["pairs"] == 96 and figures["looks_per_second"] > 0
    assert not list(folder.rglob("*.done"))


def test_finished_features_that_are_gone_are_made_again(
    extraction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(extraction.parent / "features", tmp_path / "features"))
    shutil.rmtree(folder / "rgb")
    assert main(["features", str(extraction), f"output={folder}"]) == 0
    assert "finished before, but rgb/" in capsys.readouterr().out
    made, before = (FeatureShards.open(path / "rgb").manifest for path in (folder, extraction.parent / "features"))
    assert made == before


class FullDisk(FeatureTar):
    """The disk is full in the middle of the third shard."""

    def add(self, key: str, members: Any) -> None:
        """Fails at one pair."""
        if key == "train_000060":
            raise OSError("No space left on device")
        super().add(key, members)


def test_an_extraction_that_broke_off_goes_on_where_it_was(
    extraction: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["features", str(extraction), f"output={tmp_path / 'features'}"]
    folder = tmp_path / "features" / "rgb"
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.extraction.extraction.FeatureTar", FullDisk)
        assert main(words) == 1
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(before) == [f"00000{n}.{kind}" for n in (0, 1) for kind in ("done", "index.npy", "tar")]
    cut(folder / "000001.tar")  # as a power cut might leave it
    assert main(words) == 0
    assert (folder / "000000.tar").stat().st_mtime_ns == before["000000.tar"]
    truth = FeatureShards.open(extraction.parent / "features" / "rgb").manifest
    assert FeatureShards.open(folder).manifest == truth


@pytest.mark.slow
def test_killed_at_half_the_same_command_goes_on(extraction: Path, tmp_path: Path) -> None:
    words = ["features", str(extraction), "crop.windows=60", "batch_size=8"]
    assert main([*words, f"output={tmp_path / 'whole'}"]) == 0
    folder = tmp_path / "features" / "rgb"
    killed = start(*words, f"output={tmp_path / 'features'}")
    wait_until((folder / "000000.done").is_file, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (folder / "manifest.json").exists()
    first = (folder / "000000.tar").stat().st_mtime_ns
    assert main([*words, f"output={tmp_path / 'features'}"]) == 0
    assert (folder / "000000.tar").stat().st_mtime_ns == first
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{n:06d}.{kind}" for n in range(4) for kind in ("index.npy", "tar")),
        "manifest.json",
    ]
    truth = FeatureShards.open(tmp_path / "whole" / "rgb").manifest
    assert FeatureShards.open(folder).manifest == truth


@pytest.mark.slow
def test_two_processes_make_and_read_what_one_does(config: Path, extraction: Path, kept: Path, tmp_path: Path) -> None:
    launched = launch("features", str(extraction), f"output={tmp_path / 'features'}")
    assert launched.returncode == 0, launched.stderr
    both = tmp_path / "features" / "rgb"
    assert FeatureShards.open(both).manifest.origin == FeatureShards.open(kept).manifest.origin
    for number in range(4):
        for one, two in zip(*(members(folder / f"{number:06d}.tar") for folder in (kept, both)), strict=True):
            assert one[0] == two[0]
            np.testing.assert_allclose(one[1].astype(float), two[1].astype(float), atol=1e-3)
    words = ["transfer", str(config), f"teachers.rgb.features={kept}", "student.encoder.norm=none"]
    assert main([*words, f"output={tmp_path / 'one'}"]) == 0
    launched = launch(*words, f"output={tmp_path / 'two'}")
    assert launched.returncode == 0, launched.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def members(tar: Path) -> list[tuple[str, np.ndarray]]:
    with tarfile.open(tar) as file:
        return [(item.name, np.load(io.BytesIO(file.extractfile(item).read()))) for item in file]  # type: ignore[union-attr]


@pytest.mark.slow
def test_features_are_a_stage_that_a_transfer_refers_to(
    config: Path, extraction: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = {
        "features": {"pipeline": "features", "config": str(extraction)},
        "student": {"pipeline": "transfer", "config": str(config), "set": {"teachers.rgb.features": "@features/rgb"}},
    }
    whole = str(write(tmp_path / "all.yaml", {"stages": stages, "output": str(tmp_path / "out")}))
    assert main(["run", whole]) == 0
    assert main(["run", whole]) == 0
    assert capsys.readouterr().out.count("finished before; nothing to do") == 2
    assert main(["run", whole, "stages.features.set.seed=1", "stages.student.set.seed=1"]) == 0
    told = capsys.readouterr().out
    assert told.count("config or inputs changed; the earlier result is now") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, a disk without room")
@pytest.mark.parametrize("size", [10, 100_000])  # the second is more than is held back until the tar is closed
def test_features_that_do_not_fit_on_the_disk_name_their_tar(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossmodal.data import feature_writer

    full = lambda path: path.symlink_to("/dev/full") or webdataset.TarWriter(str(path), encoder=False)  # noqa: E731
    monkeypatch.setattr(feature_writer, "open_tar", full)
    words = r"could not write .*rgb/000000\.tar: No space left .*; free space, then"
    with pytest.raises(WriteError, match=words), feature_writer.FeatureTar(tmp_path / "rgb" / "000000.tar") as tar:
        tar.add("a", {"feature": np.zeros((1, size), np.float32)})
    assert not [*(tmp_path / "rgb").iterdir()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, a disk without room")
def test_a_full_disk_does_not_hide_why_an_extraction_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmodal.data import feature_writer

    full = lambda path: path.symlink_to("/dev/full") or webdataset.TarWriter(str(path), encoder=False)  # noqa: E731
    monkeypatch.setattr(feature_writer, "open_tar", full)
    with pytest.raises(LookupError, match="the first error"), feature_writer.FeatureTar(tmp_path / "0.tar") as tar:
        tar.add_unreadable("a", "damaged")
        raise LookupError("the first error")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("cut", ['{"shard": "000002.t', '{"shard": "000002.tar", "crops": 75, "seconds": 0.1}\n'])
def test_the_figures_of_an_interrupted_extraction_become_those_of_a_whole_one(
    extraction: Path, tmp_path: Path, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["features", str(extraction), f"output={tmp_path / 'features'}"]
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.extraction.extraction.FeatureTar", FullDisk)
        assert main(words) == 1
    with (tmp_path / "features" / "metrics.jsonl").open("a") as log:
        log.write(cut)  # as a kill leaves it before the shard's tar is done
    assert main(words) == 0
    shards = FeatureShards.open(tmp_path / "features" / "rgb").manifest.shards
    told = [(line["shard"], line["crops"]) for line in lines(tmp_path / "features")]
    assert told == [(shard.file, WINDOWS * shard.pairs) for shard in shards]


def test_marks_that_a_kill_left_in_a_finished_extraction_go_with_the_same_command(
    extraction: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "features"
    shutil.copytree(extraction.parent / "features", folder)
    before = sorted(folder.rglob("*"))
    (folder / "rgb" / "000001.done").write_text("{}")
    assert main(["features", str(extraction), f"output={folder}"]) == 0
    assert sorted(folder.rglob("*")) == before
