"""From files to shards to views: what is packed of what is there, and in which unit."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from crossmodal.data import inspection
from crossmodal.data.manifest import ShardError
from crossmodal.data.moments import PIECE, Moments
from crossmodal.data.reader import open_view, read_pair
from crossmodal.data.shards import Shards
from crossmodal.data.splits import unbalanced_classes
from crossmodal.data.views import Crop
from modalities.depth import Depth
from modalities.rgb import Rgb
from pipelines.__main__ import main

RGB = {"modality": "rgb", "files": "{split}/{key}.jpg"}
DEPTH = {"modality": "depth", "files": "{split}/{key}.png", "scale_m": 0.001}


def pack(root: Path, members: dict[str, Any], sheet: dict[str, Any] | None = None, **options: Any) -> int:
    """Packs what lies below `root` into `root/pairs`."""
    source = {"name": "folder", "root": str(root), "members": members, **options}
    (root / "shards.yaml").write_text(
        yaml.safe_dump({"source": source, "sheet": sheet or {}, "output": str(root / "pairs")})
    )
    return main(["shards", str(root / "shards.yaml")])


def write_pictures(root: Path, split: str) -> None:
    (root / split).mkdir()
    (root / split / "a.jpg").write_bytes(Rgb().encode(torch.rand(3, 8, 8)))


def write_distances(root: Path, split: str, metres: torch.Tensor) -> None:
    (root / split / "a.png").write_bytes(Depth().encode(metres))


def test_a_part_without_a_field_is_packed_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, "train")
    write_pictures(tmp_path, "test")
    write_distances(tmp_path, "train", torch.full((1, 8, 8), 2.0))
    assert pack(tmp_path, {"rgb": RGB, "depth": DEPTH}, missing="keep") == 0
    test = tmp_path / "pairs" / "test"
    assert f"{test}: 1 pairs in 1 shards, 0.0 MB; none has depth" in capsys.readouterr().out
    assert main(["shards", "--check", str(tmp_path / "pairs")]) == 0
    assert set(Shards.open(tmp_path / "pairs" / "train").manifest.fields) == {"rgb", "depth"}
    with pytest.raises(ShardError, match=f"modality 'depth' reads 'depth', but {test} has rgb"):
        open_view(Shards.open(test), "depth")


def test_a_sheet_that_cannot_be_drawn_is_refused_by_its_key_and_costs_no_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        write_pictures(tmp_path, split)
        write_distances(tmp_path, split, torch.full((1, 8, 8), 2.0))
    views = {"d": {"modality": "depth", "max_m": 0.1}}
    assert pack(tmp_path, {"depth": DEPTH}, sheet=views) == 2
    assert "sheet.d: 0 < min_m < max_m < inf is needed, got 0.3 and 0.1" in capsys.readouterr().err
    assert pack(tmp_path, {"depth": DEPTH}, sheet={"d": "rgb"}) == 2
    assert "sheet.d: modality 'rgb' reads 'rgb', but the source has depth" in capsys.readouterr().err
    assert not (tmp_path / "pairs").exists()
    assert pack(tmp_path, {"depth": DEPTH}, sheet={"d": {"modality": "depth", "max_m": 1.0}}) == 2
    assert f"sheet.d: depth of {tmp_path}/pairs/train: at least half of the distances" in capsys.readouterr().err
    assert Shards.open(tmp_path / "pairs" / "test").manifest.pairs == 1
    shutil.rmtree(tmp_path / "pairs")
    assert pack(tmp_path, {"depth": DEPTH}, sheet={"d": "depth"}) == 0
    assert (tmp_path / "pairs" / "test" / "sheet.png").is_file()


def test_classes_that_a_part_lacks_are_named_when_packed_and_when_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/cat", "train/dog", "train/owl", "test/cat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_pictures(tmp_path, name)
    rgb = {"modality": "rgb", "files": "{split}/{label}/{key}.jpg"}
    assert pack(tmp_path, {"rgb": rgb}) == 0
    told = "test has no pair of these classes of train: dog (1 pairs), owl (1 pairs); it evaluates 1 of 3 classes"
    assert f"{tmp_path / 'pairs'}: {told}" in capsys.readouterr().out
    assert main(["shards", "--check", str(tmp_path / "pairs")]) == 0
    assert f"{tmp_path / 'pairs'}: {told}" in capsys.readouterr().out


@pytest.mark.parametrize(("cats", "told"), [(3, False), (4, True)])
def test_unbalanced_classes_are_told_when_packed_and_when_checked(
    cats: int, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*(f"cat/{number}" for number in range(cats)), "dog/0", "owl/0", "owl/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jpg").write_bytes(Rgb().encode(torch.rand(3, 8, 8)))
    assert pack(tmp_path, {"rgb": {"modality": "rgb", "files": "{label}/{key}.jpg"}}) == 0
    line = f"{tmp_path}/pairs/train has unbalanced classes: 'cat' has 4 pairs, 4 times the 1 of 'dog'; balanced"
    assert (line in capsys.readouterr().out) == told
    for folder in ("pairs", "pairs/train"):
        assert main(["shards", "--check", str(tmp_path / folder)]) == 0
        out = capsys.readouterr().out
        assert (line in out) == told and "nothing wrong" in out
    train = {"epochs": 1, "batch_size": 2, "workers": 0}
    (tmp_path / "supervise.yaml").write_text(yaml.safe_dump({
        "data": str(tmp_path / "pairs" / "train"), "views": {"rgb": {"modality": "rgb", "size": 8}}, "train": train,
        "student": {"view": "rgb", "encoder": {"name": "convnet", "width": 8, "stages": 1}},
        "output": str(tmp_path / "run"),
    }))  # fmt: skip
    assert main(["supervise", str(tmp_path / "supervise.yaml")]) == 0
    assert (f"{tmp_path}/run: {line}" in capsys.readouterr().out) == told


def test_classes_without_any_pair_are_not_the_smallest() -> None:
    assert unbalanced_classes({"a": 3, "b": 0, "c": 1}, "x") == unbalanced_classes({"a": 0}, "x") == []
    assert unbalanced_classes({}, "x") == unbalanced_classes({"a": 50}, "x") == []
    (line,) = unbalanced_classes({"a": 1, "b": 7, "c": 2}, "x")
    assert line.startswith("x has unbalanced classes: 'b' has 7 pairs, 7 times the 1 of 'a'; balanced figures")


def test_pairs_that_are_left_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path, "train")
    write_distances(tmp_path, "train", torch.full((1, 8, 8), 2.0))
    for key in range(5):
        (tmp_path / "train" / f"b{key}.jpg").write_bytes(b"picture")
    assert pack(tmp_path, {"rgb": RGB, "depth": DEPTH}, missing="drop") == 0
    named = "; ".join(f"split 'train', key 'b{key}' has no depth (train/b{key}.png)" for key in range(3))
    told = f"5 pairs left out because a file is missing: {named}; and 2 more"
    assert told in capsys.readouterr().out
    assert json.loads((tmp_path / "pairs" / "report.json").read_text())["dropped"] == 5


def test_files_that_belong_to_no_pair_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "files"
    (root / "train").mkdir(parents=True)
    for name in ("a.jpg", "b.JPG", "c.jpeg"):
        (root / "train" / name).write_bytes(Rgb().encode(torch.rand(3, 8, 8)))
    assert pack(root, {"rgb": RGB}) == 0
    told = f"3 files below the source's root belong to no pair: {root}/train/b.JPG (its extension differs from members"
    assert told in capsys.readouterr().out


def write_array(root: Path, array: np.ndarray, *, key: str = "a") -> None:
    (root / "train").mkdir(exist_ok=True)
    with io.BytesIO() as file:
        np.save(file, array)
        (root / "train" / f"{key}.npy").write_bytes(file.getvalue())


ARRAYS = {"modality": "depth", "files": "{split}/{key}.npy"}
METRES = np.linspace(3, 40, 64, dtype=np.float32).reshape(8, 8)


def test_floating_distances_need_their_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_array(tmp_path, METRES)
    assert pack(tmp_path, {"depth": ARRAYS}) == 2
    told = f"{tmp_path}/train/a.npy (split 'train', key 'a') holds floating-point numbers without a unit"
    assert f"{told}; set members.depth.scale_m: 1 for metres, 0.001 for millimetres" in capsys.readouterr().err
    assert pack(tmp_path, {"depth": {**ARRAYS, "scale_m": 1}}) == 0
    statistics = Shards.open(tmp_path / "pairs" / "train").manifest.statistics["depth"]
    assert (statistics["min"], statistics["max"]) == (3, 40)


def test_whole_distances_need_their_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_array(tmp_path, (METRES * 1000).astype(np.uint16))
    assert pack(tmp_path, {"depth": ARRAYS}) == 2
    assert "members.depth.scale_m must be given" in capsys.readouterr().err
    assert pack(tmp_path, {"depth": {**ARRAYS, "scale_m": 0.001}}) == 0
    assert Shards.open(tmp_path / "pairs" / "train").manifest.statistics["depth"]["max"] == 40


def test_a_value_of_no_reading_that_never_comes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    millimetres = (METRES * 1000).astype(np.uint16)
    write_array(tmp_path, millimetres)
    write_array(tmp_path, np.where(millimetres > 30000, 65535, millimetres).astype(np.uint16), key="b")
    told = f"{tmp_path}/pairs/train: depth.invalid=65534 changes nothing in these pairs; is this how their files"
    assert pack(tmp_path, {"depth": {**ARRAYS, "scale_m": 0.001, "invalid": 65534}}) == 0
    assert told in capsys.readouterr().out
    shutil.rmtree(tmp_path / "pairs")
    assert pack(tmp_path, {"depth": {**ARRAYS, "scale_m": 0.0011, "invalid": 65535}}) == 0
    assert "changes nothing" not in capsys.readouterr().out
    assert Shards.open(tmp_path / "pairs" / "train").manifest.statistics["depth"]["max"] < 45


def test_a_damaged_array_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_array(tmp_path, METRES)
    (tmp_path / "train" / "a.npy").write_bytes((tmp_path / "train" / "a.npy").read_bytes()[:90])
    assert pack(tmp_path, {"depth": ARRAYS}) == 2
    told = f"pair 'a', field depth.npy ({tmp_path}/train/a.npy): .npy array of 90 bytes is damaged"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "scale_m", "words"),
    [
        (
            METRES,
            0.001,
            r"below 0\.03\d* m, so below min_m=0\.3, .*: their mean is 0\.0215 m, from 0\.003 to 0\.04 m with ",
        ),
        (METRES * 100, 0.2, r"above 2\d+\.\d+ m, so above max_m=10, .*: their mean is 430 m, from 60 to 800 m with "),
    ],
)
def test_distances_in_another_unit_than_the_view_are_refused(
    tmp_path: Path, stored: np.ndarray, scale_m: float, words: str
) -> None:
    write_array(tmp_path, stored)
    assert pack(tmp_path, {"depth": {**ARRAYS, "scale_m": scale_m}}) == 0
    shards = Shards.open(tmp_path / "pairs" / "train")
    told = rf"depth of {shards.folder}: .* lie {words}scale_m={scale_m:g}; pack them with another scale_m, or set the"
    with pytest.raises(ShardError, match=told):
        open_view(shards, "depth")
    assert open_view(shards, "depth", min_m=0.003, max_m=800.0)
    assert main(["shards", "--sheet", str(shards.folder)]) == 0  # which no view asked for


def test_distances_of_which_half_may_be_seen_are_not_refused(tmp_path: Path) -> None:
    near = np.full((8, 8), 3.0, np.float32)
    near[:3] = 1000  # the sky
    write_array(tmp_path, near)
    write_array(tmp_path, np.zeros((8, 8), np.float32), key="dark")
    assert pack(tmp_path, {"depth": {**ARRAYS, "scale_m": 1}}) == 0
    shards = Shards.open(tmp_path / "pairs" / "train")
    assert shards.manifest.statistics["depth"]["mean"] > 10
    assert open_view(shards, "depth")


def write_pair(root: Path, key: str, size: tuple[int, int], depth_size: tuple[int, int], orientation: int = 1) -> None:
    """A picture and a depth map; sizes are width and height."""
    root.mkdir(exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(root / f"{key}.jpg", exif=exif)
    Image.fromarray(np.full(depth_size[::-1], 2000, np.uint16)).save(root / f"{key}.png")


PAIR = {
    "rgb": {"modality": "rgb", "files": "{key}.jpg"},
    "depth": {"modality": "depth", "files": "{key}.png", "scale_m": 0.001},
}


def test_pictures_of_other_proportions_are_told_and_refused_as_aligned_views(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, folder = tmp_path / "files", tmp_path / "files" / "pairs" / "train"
    write_pair(root, "a", (64, 48), (32, 24))
    write_pair(root, "b", (128, 72), (64, 48))
    write_pair(root, "c", (48, 64), (64, 48))
    told = ("pair 'b': depth of 64 x 48 pixels and rgb of 128 x 72 differ in width : height by more than 1 %, "
            "so equal positions do not show the same")  # fmt: skip

    assert pack(root, PAIR) == 0
    assert f"{told}; so do 2 of 3 pairs; crop one of the pictures, or set aligned: false" in capsys.readouterr().out
    assert main(["shards", "--check", str(folder)]) == 0
    assert f"{folder / '000000.tar'}: {told}; so do 2 of 3 pairs" in capsys.readouterr().out
    assert main(["shards", "--sheet", str(folder)]) == 0
    assert "the sheet shows each with its own crop" in capsys.readouterr().out

    shards = Shards.open(folder)
    views = {name: open_view(shards, name) for name in ("rgb", "depth")}
    read_pair(shards, views, 0, crop=Crop())
    with pytest.raises(ShardError, match=r"000000\.tar: pair 'b': aligned views need .* set aligned: false for one"):
        read_pair(shards, views, 1, crop=Crop())
    views["depth"] = open_view(shards, "depth", aligned=False)
    read_pair(shards, views, 1, crop=Crop())


def test_proportions_that_differ_by_less_than_a_hundredth_are_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "files", "a", (1600, 900), (159, 89))  # 0.5 %

    assert pack(tmp_path / "files", PAIR) == 0
    assert "differ in width" not in capsys.readouterr().out


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_picture_that_its_tag_turns_as_its_depth_lies_is_packed(tmp_path: Path, orientation: int) -> None:
    write_pair(tmp_path / "files", "a", (64, 48), (36, 48), orientation)

    assert pack(tmp_path / "files", PAIR) == 0
    shards = Shards.open(tmp_path / "files" / "pairs" / "train")
    payload = shards.read(0, ["rgb.jpg"])[1]["rgb.jpg"]
    assert payload == (tmp_path / "files" / "a.jpg").read_bytes()
    assert Rgb().decode(payload).shape == (3, 64, 48)


@pytest.mark.parametrize(
    ("orientation", "size", "depth_size"),
    [
        (6, (64, 48), (64, 48)),  # depth lies as the pixels are stored
        (8, (48, 48), (48, 48)),  # a quarter turn of a square does not show
        *((orientation, (64, 48), (64, 48)) for orientation in (2, 3, 4)),
    ],
)
def test_a_tag_that_turns_a_picture_away_from_its_depth_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    orientation: int,
    size: tuple[int, int],
    depth_size: tuple[int, int],
) -> None:
    root = tmp_path / "files"
    write_pair(root, "a", size, depth_size, orientation)

    assert pack(root, PAIR) == 2
    told = capsys.readouterr().err
    assert f"pair 'a' ({root / 'a.png'}, {root / 'a.jpg'}): the EXIF orientation {orientation} turns rgb to" in told
    assert "turn the pixels of rgb (mogrify -auto-orient)" in told and "remove the tag" in told


@pytest.mark.parametrize("orientation", range(2, 9))
def test_tagged_pictures_alone_are_packed(tmp_path: Path, orientation: int) -> None:
    write_pair(tmp_path / "files", "a", (64, 48), (64, 48), orientation)

    assert pack(tmp_path / "files", {"rgb": PAIR["rgb"]}) == 0


def test_check_names_a_tag_that_turns_a_picture_away_from_its_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pair(tmp_path / "files", "a", (64, 48), (64, 48), 3)
    with monkeypatch.context() as earlier:  # shards were packed without a look at tags
        earlier.setattr(inspection, "tell_turned", lambda _: "")
        assert pack(tmp_path / "files", PAIR) == 0

    assert main(["shards", "--check", str(tmp_path / "files" / "pairs")]) == 1
    assert "pair 'a' has pictures that disagree: the EXIF orientation 3 turns rgb" in capsys.readouterr().out


def test_moments_of_a_large_signal_take_memory_for_a_piece_of_it_and_are_right() -> None:
    numbers = torch.rand(3, 1200, 1300, generator=torch.Generator().manual_seed(0))
    numbers[:, :100] = 0

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = func(*args, **(kwargs or {}))
            if isinstance(given, torch.Tensor) and given._base is None:
                self.bytes = max(self.bytes, given.numel() * given.itemsize)
            return given

    statistics = Moments()
    with Largest() as largest:
        statistics.add(numbers)
    assert largest.bytes <= 8 * PIECE < 8 * numbers.numel()
    values = numbers.numpy()[numbers.numpy() != 0].astype(np.float64)
    assert statistics.summary() == pytest.approx(
        {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max(),
         "zero_share": 100 / 1200}, abs=1e-6)  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_a_stream_cannot_hold_are_no_error(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A terminal of another encoding, and a folder's name that is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xc3\xa9")
    shutil.copytree(synthetic / "train", folder)
    for flag in ("--info", "--sheet", "--check"):
        for name in ("stdout", "stderr"):
            stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
            monkeypatch.setattr(sys, name, stream)
        assert main(["shards", flag, str(folder)]) == 0
        told = sys.stdout.buffer.getvalue().decode(encoding)
        assert r"caf\udce9 " + ("é" if encoding == "utf-8" else r"\xe9") in told


LABELS = {"modality": "labels", "files": "{key}.label.png", "classes": ["floor", "bed", "lamp"], "ignore": 9}
DENSE = {"rgb": {"modality": "rgb", "files": "{key}.jpg"}, "labels": LABELS}


def write_labels(root: Path, key: str, stored: np.ndarray, picture: tuple[int, int] = (8, 8)) -> None:
    root.mkdir(exist_ok=True)
    Image.fromarray(stored.astype(np.uint8)).save(root / f"{key}.label.png")
    Image.new("RGB", picture).save(root / f"{key}.jpg")


def test_label_maps_are_packed_with_their_class_names_and_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(tmp_path, "a", np.array([[0, 0], [1, 9]]))
    write_labels(tmp_path, "b", np.array([[0, 9], [9, 9]]))
    assert pack(tmp_path, DENSE) == 0
    shards = Shards.open(tmp_path / "pairs" / "train")
    assert shards.manifest.fields["labels"].stored == {"classes": ("floor", "bed", "lamp"), "ignore": 9, "colours": ()}
    assert shards.manifest.statistics["labels"] == {
        "share.floor": 0.75, "share.bed": 0.25, "share.lamp": 0.0, "unlabelled_share": 0.5
    }  # fmt: skip
    view = open_view(shards, "labels", size=2)
    assert read_pair(shards, {"labels": view}, 0).adapted["labels"].tolist() == [[[[0, 0], [1, -1]]]]
    assert open_view(shards, "labels", size=2, classes=("floor", "bed", "lamp"), ignore=9) == view
    with pytest.raises(
        ShardError, match=r"classes must be \('floor', 'bed', 'lamp'\), as the manifest of .* got \('x'"
    ):
        open_view(shards, "labels", classes=("x", "y"))
    capsys.readouterr()
    assert main(["shards", "--info", str(shards.folder)]) == 0
    assert "labels.png: labels classes=floor,bed,lamp ignore=9; share.floor 0.75," in capsys.readouterr().out
    assert main(["shards", "--check", str(shards.folder)]) == 0


def test_a_label_map_of_other_values_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path, "a", np.array([[0, 3], [1, 9]]))
    assert pack(tmp_path, DENSE) == 2
    told = f"pair 'a', field labels.png ({tmp_path / 'a.label.png'}): a label map must hold values from 0 to 2"
    assert told in capsys.readouterr().err


def test_a_label_map_of_other_proportions_than_the_picture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(tmp_path / "half", "a", np.zeros((8, 8)), picture=(16, 16))
    assert pack(tmp_path / "half", DENSE) == 0
    write_labels(tmp_path / "other", "a", np.zeros((8, 8)), picture=(16, 8))
    assert pack(tmp_path / "other", DENSE) == 2
    places = f"{tmp_path}/other/a.label.png, {tmp_path}/other/a.jpg"
    told = f"pair 'a' ({places}): labels of 8 x 8 pixels and rgb of 16 x 8 differ in width : height"
    assert told in capsys.readouterr().err


def test_an_ignored_value_that_never_occurs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path, "a", np.array([[0, 2], [1, 0]]))
    assert pack(tmp_path, DENSE) == 0
    assert "labels.ignore=9 changes nothing in these pairs" in capsys.readouterr().out


def test_a_view_of_pairs_without_any_label_is_refused(tmp_path: Path) -> None:
    write_labels(tmp_path, "a", np.full((2, 2), 9))
    assert pack(tmp_path, DENSE) == 0
    with pytest.raises(ShardError, match=r"labels of .*train: no pixel has a label: all are ignore=9"):
        open_view(Shards.open(tmp_path / "pairs" / "train"), "labels")


def test_a_pair_that_lacks_its_label_map_has_no_label_anywhere(tmp_path: Path) -> None:
    for key in ("a", "b"):
        write_labels(tmp_path, key, np.zeros((2, 2)))
    (tmp_path / "b.label.png").unlink()
    assert pack(tmp_path, DENSE, missing="keep") == 0
    shards = Shards.open(tmp_path / "pairs" / "train")
    views = {"labels": open_view(shards, "labels", size=4), "rgb": open_view(shards, "rgb", size=4)}
    for crop in (None, Crop()):
        whole, without = (read_pair(shards, views, index, crop=crop, masks=True) for index in (0, 1))
        assert (whole.adapted["labels"] == 0).all() and whole.present["labels"].all()
        assert (without.adapted["labels"] == -1).all() and not without.present["labels"].any()


def write_raster(root: Path, *heights: np.ndarray) -> None:
    for number, values in enumerate(heights):
        np.save(root / f"{number}.npy", values)


RASTER = {"modality": "raster", "files": "{key}.npy", "unit": "m", "invalid": -9999, "scale": 2}


def test_the_statistics_of_a_raster_count_zeros_and_leave_out_what_is_no_reading(tmp_path: Path) -> None:
    values = np.array([[0.0, -3.5, np.nan], [-9999.0, 10.0, 0.0]])
    write_raster(tmp_path, values, values + 1)
    assert pack(tmp_path, {"raster": RASTER}) == 0

    manifest = Shards.open(tmp_path / "pairs" / "train").manifest
    present = 2 * np.array([0, -3.5, 10, 0, 1, -2.5, -9998, 11, 1])
    expected = {"mean": present.mean(), "std": present.std(), "min": present.min(), "max": present.max()}
    assert manifest.statistics["raster"] == pytest.approx({**expected, "no_reading_share": 3 / 12}, abs=1e-5)
    assert manifest.fields["raster"].stored == {"unit": "m", "scale": 2, "offset": 0, "invalid": -9999}


def test_a_raster_without_a_number_of_no_reading_keeps_none_in_its_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raster(tmp_path, np.full((2, 3), np.nan))
    assert pack(tmp_path, {"raster": {"modality": "raster", "files": "{key}.npy"}}) == 0

    shards = Shards.open(tmp_path / "pairs" / "train")
    assert shards.manifest.fields["raster"].stored == {"unit": "", "scale": 1, "offset": 0, "invalid": None}
    assert shards.manifest.statistics["raster"] == {"no_reading_share": 1.0}
    view = open_view(shards, "raster", height=2, width=3)
    assert read_pair(shards, {"r": view}, 0).adapted["r"].isnan().all()
    assert (
        main(["shards", "--info", str(tmp_path / "pairs")]) == main(["shards", "--check", str(tmp_path / "pairs")]) == 0
    )
    assert "raster.npy: raster scale=1.0 offset=0.0; no_reading_share 1" in capsys.readouterr().out


@pytest.mark.parametrize(("invalid", "told"), [(-9999, False), (-9998, True)])
def test_a_number_of_no_reading_that_no_raster_has_is_told(
    invalid: int, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raster(tmp_path, np.array([[np.nan, -9999.0, 0.0]]))
    assert pack(tmp_path, {"raster": RASTER | {"invalid": invalid}}) == 0
    assert (f"raster.invalid={invalid} changes nothing in these pairs" in capsys.readouterr().out) == told


def test_a_raster_whose_range_the_view_misses_is_refused_in_its_unit(tmp_path: Path) -> None:
    write_raster(tmp_path, np.linspace(-300, -100, 20).reshape(4, 5))
    assert pack(tmp_path, {"raster": RASTER}) == 0
    message = "readings are from -600 to -200 m, with a mean of -400: at least half of them lie below"
    with pytest.raises(ShardError, match=message):
        open_view(Shards.open(tmp_path / "pairs" / "train"), "raster")
