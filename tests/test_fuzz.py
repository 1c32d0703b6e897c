"""2,000 changed files are read right or refused by name; benchmarks/fuzz.py changes ten times as many."""

import io
import json
import math
import runpy
import shutil
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from crossmodal.data.features import FeatureShards
from crossmodal.data.index import index_path
from crossmodal.data.manifest import MANIFEST, ShardError
from crossmodal.data.moments import Moments
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.verify import check
from crossmodal.encoders.convnet import ConvNet
from crossmodal.models import CARD, WEIGHTS, ExportError, load_model
from modalities import DecodeError
from modalities.audio import Audio
from modalities.codecs.arrays import read_array
from modalities.common.random import generator
from modalities.depth import Depth
from modalities.rgb import Rgb

FUZZ = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "fuzz.py"))
KINDS = FUZZ["kinds"]()
COUNT = 2000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    found = FUZZ["World"].make(tmp_path_factory.mktemp("world"))
    assert len(found.pairs) == len(found.features) == 4 and found.model  # of the whole files
    return found


@pytest.fixture
def shards(world, tmp_path: Path) -> Path:
    """A copy of the shards that a test may damage."""
    return Path(shutil.copytree(world.folder / "shards", tmp_path / "shards"))


@pytest.fixture
def model(world, tmp_path: Path) -> Path:
    """A copy of the exported model."""
    return Path(shutil.copytree(world.folder / "model", tmp_path / "model"))


@pytest.mark.filterwarnings("ignore")  # what Pillow and numpy say of damage
@pytest.mark.parametrize("name", [*KINDS])
def test_a_changed_file_is_read_right_or_refused_by_name(world, name: str) -> None:
    kind, shares = KINDS[name], sum(kind.share for kind in KINDS.values())
    tally = FUZZ["fuzz"](world, name, kind, math.ceil(COUNT * kind.share / shares), seed=1)
    assert not tally.faults
    assert tally.ended["named"]


def test_every_kind_of_fault_is_counted(world) -> None:
    def run(wanted: str):
        def fail(*_: object) -> str:
            if wanted == "other":
                raise KeyError("std")
            if wanted == "memory":
                raise ShardError("damaged") from MemoryError()
            if wanted == "values":
                raise FUZZ["Fault"]("has other values")
            return "right"

        return FUZZ["fuzz"](world, wanted, FUZZ["Kind"](1, fail), 2, seed=0)

    assert [len(run(wanted).faults) for wanted in ("other", "memory", "values", "none")] == [2, 2, 2, 0]


def test_a_changed_value_is_a_fault_where_a_checksum_covers_it(world, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shards, "read", _unchecked)

    def requantise(draw: object, tar: bytes) -> bytes:
        place = tar.index(b"\xff\xdb", tar.index(b"\xff\xd8\xff")) + 5  # the first step of a JPEG's first table
        return tar[:place] + bytes([tar[place] + 9]) + tar[place + 1 :]

    kind = FUZZ["Kind"](1, partial(FUZZ["change_shards"], file="000000.tar", change=requantise))
    assert "has other values" in FUZZ["fuzz"](world, "pictures", kind, 1, seed=0).faults[0]


def _unchecked(shards: Shards, index: int, names: list[str]) -> tuple[str, dict[str, bytes]]:
    key, spans = shards.spans(index, names)
    payloads = shards.read_spans(index, spans)
    return key, dict(zip(names, payloads, strict=True))


# --- each fault that was found ---


def of_size(tar: Path, size: int) -> None:
    """Gives the first header of a tar another size, and the right checksum."""
    content = bytearray(tar.read_bytes())
    content[124:136] = b"\x80" + size.to_bytes(11, "big")
    FUZZ["_sum"](content, 0)
    tar.write_bytes(content)


@pytest.mark.parametrize("size", [2**40, 2**63, 2**80])
def test_check_names_a_member_of_absurd_size_without_reading_it(shards: Path, size: int) -> None:
    of_size(shards / "000000.tar", size)
    words = "is truncated inside" if size < 2**62 else f"a size of {size} bytes"
    assert any(words in problem for problem in check(shards))


@pytest.mark.parametrize("size", [2**40, 2**63, 2**80])
def test_a_shard_whose_header_tells_of_an_absurd_size_is_refused(shards: Path, size: int) -> None:
    tar = shards / "000000.tar"
    of_size(tar, size)
    (shards / MANIFEST).write_bytes(FUZZ["_agreeing"](shards / MANIFEST, tar, tar.read_bytes()))
    with pytest.raises(ShardError, match=r"000000\.tar.*(is truncated|a size of|must hold 2 pairs)"):
        Shards.open(shards).read(0, ["json"])


@pytest.mark.parametrize("shape", [(10**6, 10**6), (-1, 4), (2, 10**30)])
def test_an_array_that_claims_other_numbers_than_follow_costs_no_memory(shape: tuple[int, ...]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with pytest.raises(ValueError, match=r"takes .* bytes, and 64 follow the header") as caught:
        read_array(file.getvalue() + bytes(64))
    assert not isinstance(caught.value.__cause__, MemoryError)


def test_a_manifest_with_more_pairs_than_its_bytes_hold_is_refused(shards: Path) -> None:
    content = json.loads((shards / MANIFEST).read_text())
    content["shards"][0]["pairs"] = 10**15
    content["pairs"] = 10**15 + 2
    (shards / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"pairs of 000000\.tar must be at most \d+, as many as fit into"):
        Shards.open(shards)


def test_a_manifest_whose_statistics_lack_a_moment_is_refused(shards: Path) -> None:
    content = json.loads((shards / MANIFEST).read_text())
    del content["statistics"]["depth"]["max"]
    (shards / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"statistics\.depth must have all of mean, std, min, max or none, got no max"):
        Shards.open(shards)


@pytest.mark.parametrize(("stored", "words"), [
    ({"scale_m": 0.001}, "stored must have scale_m, invalid, as the modality 'depth' needs, got scale_m"),
    ({"scale_m": 0.001, "invalid": 0, "mean": 1}, "stored must have scale_m, invalid, .* got scale_m, invalid, mean"),
    ({"scale_m": -1, "invalid": 0}, "stored: scale_m must be from 1e-09 to inf, got -1"),
    ({"scale_m": "mm", "invalid": 0}, "stored.scale_m must be a finite number, got 'mm'"),
    ({"scale_m": 1, "invalid": ["0"]}, r"stored.invalid must be a finite number, got \('0',\)"),
])  # fmt: skip
def test_options_of_stored_bytes_must_be_the_modality_s(shards: Path, stored: dict[str, float], words: str) -> None:
    content = json.loads((shards / MANIFEST).read_text())
    content["fields"]["depth"]["stored"] = stored
    (shards / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=rf"manifest\.json: field 'depth': {words}"):
        open_view(Shards.open(shards), "depth")
    assert [problem for problem in check(shards) if words.split(",", 1)[0] in problem]


@pytest.mark.parametrize(("change", "words"), [
    ({"encoder_options": {"width": 10**5, "stages": 1}}, "has far more than the .* numbers of its weights"),
    ({"encoder_options": {"width": 4, "stages": 10**12}}, "stages must be from 1 to 16, got 10"),
    ({"encoder": "cifar_resnet", "encoder_options": {"depth": 6 * 10**9 + 2}}, "has far more than"),
    ({"encoder": "cifar_mobilenet", "encoder_options": {"width": 1e308}}, ""),
    ({"shape": [3, 8, 9]}, r"shape is \[3, 8, 9\], but its modality gives \[3, 8, 8\]"),
    ({"shape": [3, 10**5, 10**5], "modality_options": {"size": 10**5}}, "samples must have at most 16777216 numbers"),
    ({"modality_options": {"size": 8, "seize": 8}}, "unexpected keyword argument 'seize'"),
])  # fmt: skip
def test_a_card_that_asks_for_what_its_weights_are_not_is_refused_at_once(
    model: Path, change: dict[str, object], words: str
) -> None:
    card = {**json.loads((model / CARD).read_text()), **change}
    (model / CARD).write_text(json.dumps(card))
    with pytest.raises(ExportError, match=f"model.json needs what this version does not have: .*{words}"):
        load_model(model)


def test_a_head_that_is_far_larger_than_the_weights_is_refused(model: Path) -> None:
    card = json.loads((model / CARD).read_text())
    card["heads"]["crd"]["teacher_spec"]["dim"] = 10**10
    (model / CARD).write_text(json.dumps(card))
    with pytest.raises(ExportError, match="has far more than"):
        load_model(model)


def test_a_model_whose_weights_changed_is_refused(world, model: Path) -> None:
    weights = model / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.safetensors is not the file that was exported"):
        load_model(model)
    card = json.loads((model / CARD).read_text())
    (model / CARD).write_text(json.dumps({**card, "weights": ""}))  # as in folders of earlier versions
    assert load_model(model).card.weights == ""


def test_features_of_another_size_than_the_manifest_says_are_refused_unread(world, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.folder / "features", tmp_path / "features"))
    content = json.loads((folder / MANIFEST).read_text())
    content["spec"]["dim"] = 2**62
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"must have 2 x \(4611686018427387904,\) numbers in embedding\.npy, got"):
        FeatureShards.open(folder).read(0, next(iter(world.pairs)), 0)


def test_features_that_are_not_finite_are_refused(world, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world.folder / "features", tmp_path / "features"))
    tar, key = folder / "000000.tar", next(iter(world.pairs))
    with tarfile.open(tar) as found:
        place = found.getmember(f"{key}.logits.npy").offset_data + 128
    content = bytearray(tar.read_bytes())
    content[place : place + 4] = np.float32("nan").tobytes()
    tar.write_bytes(content)
    (folder / MANIFEST).write_bytes(FUZZ["_agreeing"](folder / MANIFEST, tar, bytes(content)))
    with pytest.raises(ShardError, match=r"000000\.tar: pair '\S+' has numbers in logits\.npy that are not finite"):
        FeatureShards.open(folder).read(0, key, 0)


def test_an_index_that_the_manifest_takes_and_that_is_none_is_refused(shards: Path) -> None:
    index = index_path(shards / "000000.tar")
    index.write_bytes(b"PK\x03\x04" + bytes(100))
    (shards / MANIFEST).write_bytes(FUZZ["_agreeing"](shards / MANIFEST, index, index.read_bytes()))
    with pytest.raises(ShardError, match=r"index\.npy: it is not a table of key, label, group and members"):
        Shards.open(shards).read(0, ["json"])


# --- limits ---


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_progressive_jpeg_that_lacks_scans_is_refused(mode: str) -> None:
    pixels = (torch.rand(64, 48, len(Image.new(mode, (1, 1)).getbands()), generator=generator("scans")) * 255).byte()
    with io.BytesIO() as file:
        Image.frombytes(mode, (48, 64), pixels.numpy().tobytes()).save(file, "JPEG", progressive=True)
        whole = file.getvalue()
    starts = [place for place in range(len(whole)) if whole[place : place + 2] == b"\xff\xda"]
    assert len(starts) > 3 and Rgb().decode(whole).shape == (3, 64, 48)
    for start in starts[1:]:
        with pytest.raises(DecodeError, match="it lacks its last scans"):
            Rgb().decode(whole[:start] + b"\xff\xd9")


def test_sound_that_would_be_too_long_at_another_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with io.BytesIO() as file:
        soundfile.write(file, np.full(1000, 0.25), 8000, format="FLAC")
        payload = file.getvalue()
    monkeypatch.setenv("CROSSMODAL_MAX_SAMPLES", "1999")
    assert Audio(rate_hz=8000).decode(payload).shape == (1, 1000)
    with pytest.raises(DecodeError, match="sound resampled to 16000 Hz has 2000 samples, more than the 1999 allowed"):
        Audio(rate_hz=16000).decode(payload)


def test_statistics_of_a_signal_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = torch.rand(3, 40, 30, generator=generator("pieces")) - 0.5
    signal[signal > 0.4] = 0
    whole, pieces = Moments(), Moments()
    whole.add(signal)
    monkeypatch.setattr("crossmodal.data.moments.PIECE", 1000)
    pieces.add(signal)
    assert pieces.summary() == whole.summary() and pieces.without == whole.without == int((signal == 0).sum())
    values = signal[signal != 0].double()
    assert whole.summary()["std"] == round(values.std(correction=0).item(), 6)


def test_decoding_leaves_the_payload_and_the_values_of_a_float64_map_alone() -> None:
    stored = np.array([[1500.0, 0.0], [math.nan, 2500.0]])
    file = io.BytesIO()
    np.save(file, stored)
    payload = file.getvalue()
    for _ in range(2):
        assert Depth(size=2).decode(payload).tolist() == [[[1.5, 0.0], [0.0, 2.5]]]
    assert payload == file.getvalue()


def test_a_convnet_has_a_bounded_number_of_stages_and_of_numbers() -> None:
    with pytest.raises(ValueError, match="stages must be from 1 to 16, got 17"):
        ConvNet((3, 8, 8), stages=17)
    with pytest.raises(ValueError, match="samples must have at most 16777216 numbers, got 30000000"):
        ConvNet((3, 1000, 10000))
