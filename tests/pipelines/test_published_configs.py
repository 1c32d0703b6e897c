"""The configs of NYU Depth v2, SUN RGB-D and STL-10 from shards to report, on small files in the published layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from published import (
    save_nyu_data,
    save_nyu_mappings,
    save_nyu_split,
    save_sun_frame,
    save_sun_labels,
    save_sun_meta,
    save_sun_splits,
)

from pipelines.__main__ import main

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[2] / "configs"
HEIGHT, WIDTH, CLASSES = 48, 64, 6
TRAIN, TEST = 16, 8  # pictures
PLACES = {"views.rgb.height": HEIGHT, "views.rgb.width": WIDTH, "views.depth.height": 24, "views.depth.width": 32}
TRAINING = {"train.epochs": 1, "train.batch_size": 8, "train.workers": 0, "student.encoder.width": 4}
SEGMENTATION = {
    "height": 24, "width": 32, "pictures": [4, None], "draws": 1, "steps": 2, "batch_size": 4,
    "fine_tuned": [None], "fine_tuned_steps": 2, "fine_tuned_batch_size": 4,
}  # fmt: skip
NYU_40 = """wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk,
    shelves, curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refridgerator, television, paper,
    towel, shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, otherstructure,
    otherfurniture, otherprop"""
NUMBERS = np.random.default_rng(0)


def picture(count: int = TRAIN + TEST) -> np.ndarray:
    return NUMBERS.integers(0, 256, (HEIGHT, WIDTH, 3, count), np.uint8)


def millimetres(count: int = TRAIN + TEST) -> np.ndarray:
    return NUMBERS.integers(800, 7000, (HEIGHT, WIDTH, count))


def classes(count: int = TRAIN + TEST) -> np.ndarray:
    """Blocks of 8 x 8 pixels; 0: none."""
    blocks = NUMBERS.integers(0, 1 + CLASSES, (HEIGHT // 8, WIDTH // 8, count), np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def run(config: str, output: Path, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Runs a config with settings for its stages; the report of its evaluation."""
    words = [f"stages.{stage}.set={json.dumps(values)}" for stage, values in settings.items()]
    assert main(["run", str(CONFIGS / config), f"output={output}", *words]) == 0
    assert (output / "report" / "report.html").stat().st_size > 10_000
    report: dict[str, Any] = json.loads((output / "evaluation" / "report.json").read_text())["figures"]
    return report


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A teacher's file with the names and sizes of torchvision's."""
    path = tmp_path_factory.mktemp("weights") / "resnet18-f37072fd.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return {"teachers.rgb.weights": str(path)}


def test_nyuv2_from_the_mat_file_to_the_report(tmp_path: Path, weights: dict[str, str]) -> None:
    root, names = tmp_path / "data", [f"name {number}" for number in range(CLASSES)]
    root.mkdir()
    arrays = {"images": picture(), "depths": millimetres().astype(np.float32) / 1000, "labels": classes()}
    scenes = [f"{kind}_{number:04d}" for number in range(6) for kind in ("kitchen", "bedroom", "office", "bathroom")]
    save_nyu_data(root, arrays, names, scenes)
    save_nyu_split(root, range(1, TRAIN + 1), range(TRAIN + 1, TRAIN + TEST + 1))
    save_nyu_mappings(root, [name.strip() for name in NYU_40.split(",")], (1, 2, 4, 5, 5, 22), ("all",), (1,) * 40)
    student = {**PLACES, **TRAINING, **weights}
    metrics = {"metrics.segmentation": SEGMENTATION, "metrics.segmentation13": {**SEGMENTATION, "fine_tuned": []}}
    students = ("at", "fitnet", "crd", "crd_local", "dense")

    figures = run(
        "nyuv2/rgb_to_depth.yaml",
        tmp_path / "out",
        {
            "pairs": {"source.root": str(root), "source.crop": False},
            **dict.fromkeys(students, student),
            "evaluation": {"seeds": 1, "workers": 0, **metrics},
        },
    )

    for name in students:
        row = figures["table"][name]
        assert {"miou.frozen@4", "pixel_accuracy.fine-tuned@all", "miou13.frozen@all", "knn"} <= row.keys()
        assert all(0 <= value["mean"] <= 1 for value in row.values())


def test_sunrgbd_from_the_archives_to_the_report(tmp_path: Path, weights: dict[str, str]) -> None:
    root, names = tmp_path / "data", [f"name {number}" for number in range(CLASSES)]
    folders = [f"kv1/NYUdata/NYU{number:04d}" for number in range(1, TRAIN + TEST + 1)]
    colour, depth, maps = picture(), millimetres(), classes()
    for number, folder in enumerate(folders, 1):
        depths = {"depth_bfx": depth[..., number - 1], "depth": depth[..., number - 1]}
        scene = ("office", "bedroom")[number % 2]
        save_sun_frame(root / "SUNRGBD" / folder, number, colour[..., number - 1], depths, scene)
    save_sun_meta(root, folders)
    save_sun_labels(root, list(np.moveaxis(maps, -1, 0)), names)
    save_sun_splits(root, folders[:TRAIN], folders[TRAIN:], (folders[:8], folders[8:TRAIN]))
    student = {**PLACES, **TRAINING, **weights}

    figures = run(
        "sunrgbd/rgb_to_depth.yaml",
        tmp_path / "out",
        {
            "pairs": {"source.root": str(root)},
            "crd": student,
            "dense": student,
            "evaluation": {"seeds": 1, "workers": 0, "metrics.segmentation": SEGMENTATION},
        },
    )

    for name in ("crd", "dense"):
        assert {"miou.frozen@4", "pixel_accuracy.fine-tuned@all", "knn"} <= figures["table"][name].keys()


def test_stl10_from_the_binary_files_to_the_report(tmp_path: Path) -> None:
    root, tiny = tmp_path / "stl10_binary", tmp_path / "tiny-imagenet-200"
    root.mkdir()
    for kind in ("train", "test", "unlabeled"):
        pixels = NUMBERS.integers(0, 256, (16, 96, 96, 3), np.uint8)
        (root / f"{kind}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (root / f"{kind}_y.bin").write_bytes(bytes([1, 2] * 8))
    (root / "class_names.txt").write_text("airplane\nbird\n")
    for synset in ("n01443537", "n01629819"):
        folder = tiny / "train" / synset / "images"
        folder.mkdir(parents=True)
        for number in range(8):
            pixels = NUMBERS.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{synset}_{number}.JPEG")

    figures = run(
        "stl10/l_to_ab.yaml",
        tmp_path / "out",
        {
            "pairs": {"source.root": str(root)},
            "teacher_pairs": {"source.root": str(tiny)},
            **dict.fromkeys(("teacher", "at", "fitnet", "crd"), TRAINING),
            "evaluation": {"seeds": 1, "workers": 0},
        },
    )

    for name in ("at", "fitnet", "crd"):
        assert {"knn", *(f"layer.{stage}" for stage in range(5))} <= figures["table"][name].keys()
