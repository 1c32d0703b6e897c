"""The configs of docs/formats.md read small files in their layout and units."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from crossmodal import SOURCES
from crossmodal.sources import Pair, Source

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
CONFIGS = dict(re.findall(r"```yaml\n# ([\w -]+)\n(.*?)```", PAGE, re.DOTALL))
SCRIPT = re.findall(r"```python\n(# python pair_stamps.*?)```", PAGE, re.DOTALL)[0]
METRES = torch.tensor([[0.0, 1.5, 2.25], [4.0, 3.0, 0.5]])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_pair(rgb: Path, depth: Path, per_metre: int) -> None:
    save(rgb, np.full((2, 3, 3), 90, np.uint8))
    save(depth, (METRES.numpy() * per_metre).astype(np.uint16))


def source(name: str, root: Path) -> Source:
    options = yaml.safe_load(CONFIGS[name])["source"]
    return SOURCES.get(options.pop("name"))(**{**options, "root": str(root)})


def metres(source: Source, pair: Pair) -> torch.Tensor:
    return source.fields()["depth"].decode(pair.members["depth.png"])[0]


def test_a_height_map_is_in_metres_and_has_holes(tmp_path: Path) -> None:
    save(tmp_path / "photo/7.jpg", np.full((2, 3, 3), 90, np.uint8))
    save(tmp_path / "height/7.tif", np.array([[-9999, -12.5, 0], [1, 2, 803.25]], np.float32))

    terrain = source("a height map", tmp_path)
    (pair,), raster = terrain.pairs("train"), terrain.fields()["raster"]
    heights = raster.decode(pair.members["raster.tif"])

    np.testing.assert_array_equal(heights[0].numpy(), np.array([[np.nan, -12.5, 0], [1, 2, 803.25]], np.float32))
    assert raster.unit == "m"


def test_patterns_divide_whole_groups_by_their_seed(tmp_path: Path) -> None:
    for room in "abcde":
        for label in ("chair", "table"):
            save_pair(tmp_path / f"{room}/{label}/{room}1.jpg", tmp_path / f"{room}/{label}/{room}1.png", 1000)

    shop = source("patterns", tmp_path)

    groups = {split: {pair.group for pair in shop.pairs(split)} for split in shop.splits()}
    assert len(groups["test"]) == 1 and groups["train"] | groups["test"] == {*"abcde"}
    assert shop.classes() == ("chair", "table")


def test_a_csv_file_of_five_lines_is_four_pairs(tmp_path: Path) -> None:
    (text,) = re.findall(r"```csv\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "pairs.csv").write_text(text)
    for number, scan in enumerate("ab d", start=1):
        save_pair(tmp_path / f"photo/000{number}.jpg", tmp_path / f"scan/{scan.strip() or 'unused'}.png", 1000)

    shop = source("a CSV file", tmp_path)
    pairs = [*shop.pairs("train")]

    assert len(text.splitlines()) == 5 and shop.classes() == ("chair", "table")
    assert [(pair.key, pair.label, pair.group) for pair in pairs] == [
        ("chair-1", 0, "monday"), ("table-1", 1, "monday"), ("chair-2", 0, "tuesday"), ("unknown-1", -1, "tuesday"),
    ]  # fmt: skip
    assert ["depth.png" in pair.members for pair in pairs] == [True, True, False, True]
    assert torch.equal(metres(shop, pairs[0]), METRES)


@pytest.mark.slow
def test_tum_pairs_the_nearest_stamps_and_stores_5000_a_metre(tmp_path: Path) -> None:
    stamps = {"rgb": ("1.000000", "1.033000", "1.066000", "2.000000"), "depth": ("1.005000", "1.040000", "1.055000")}
    for name, each in stamps.items():
        lines = [f"{stamp} {name}/{stamp}.png" for stamp in each]
        (tmp_path / f"{name}.txt").write_text("\n".join([f"# {name} maps", "# timestamp filename", *lines, ""]))
    for stamp in stamps["rgb"]:
        save(tmp_path / f"rgb/{stamp}.png", np.full((2, 3, 3), 90, np.uint8))
    for place, stamp in enumerate(stamps["depth"]):
        save(tmp_path / f"depth/{stamp}.png", (METRES.numpy() * 5000).astype(np.uint16) + 5000 * place)
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True)

    tum = source("TUM RGB-D", tmp_path)
    found = {pair.key: metres(tum, pair) for split in tum.splits() for pair in tum.pairs(split)}

    assert list(found) == ["rgb_1_000000", "rgb_1_033000", "rgb_1_066000"]  # 2.0 s has no depth within 20 ms
    for place, each in enumerate(found.values()):
        torch.testing.assert_close(each, METRES + place, rtol=1e-6, atol=0)


def test_scannet_stores_millimetres_and_classes_from_1(tmp_path: Path) -> None:
    for scene in ("scene0000_00", "scene0000_01", "scene0001_00"):
        folder = tmp_path / scene
        save_pair(folder / "color/000100.jpg", folder / "depth/000100.png", 1000)
        save(folder / "label/000100.png", np.array([[0, 1, 2], [24, 39, 40]], np.uint8))
        (folder / "pose").mkdir()
        (folder / "pose/000100.txt").write_text("1 0 0 0.5\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")

    scannet = source("ScanNet", tmp_path)
    pair = next(scannet.pairs("train"))

    torch.testing.assert_close(metres(scannet, pair), METRES, rtol=1e-6, atol=0)
    labels = scannet.fields()["labels"]
    assert labels.decode(pair.members["labels.png"])[0].tolist() == [[-1, 0, 1], [23, 38, 39]]
    assert len(labels.classes) == 40 and (labels.classes[0], labels.classes[23]) == ("wall", "refrigerator")
    assert pair.facts["pose"][3] == 0.5


def test_kitti_stores_256_a_metre_and_frames_without_depth_are_left_out(tmp_path: Path) -> None:
    for drive in ("2011_09_26_drive_0001_sync", "2011_09_26_drive_0002_sync", "2011_09_26_drive_0005_sync"):
        rgb = tmp_path / "2011_09_26" / drive / "image_02/data"
        save_pair(
            rgb / "0000000005.png",
            tmp_path / "train" / drive / "proj_depth/groundtruth/image_02/0000000005.png",
            256,
        )
        save(rgb / "0000000000.png", np.full((2, 3, 3), 90, np.uint8))

    kitti = source("KITTI", tmp_path)

    assert len(kitti.dropped()) == 3
    for split in kitti.splits():
        for pair in kitti.pairs(split):
            assert torch.equal(metres(kitti, pair), METRES)
