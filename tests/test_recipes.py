"""The numbers of recipes that say "as published" are the published ones, written here once more from their sources."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from crossmodal.data.views import Crop
from modalities.common.picture import _interval
from modalities.common.random import generator
from pipelines import pretrain, supervise, transfer
from pipelines.config import load, to_dict

ROOT = Path(__file__).parent.parent / "configs"
PUBLISHED = sorted((ROOT / "pretrain" / "published").glob("*.yaml"))
RECIPES = [*PUBLISHED, *ROOT.glob("cifar100/*_to_*.yaml"), *ROOT.glob("cifar100/teacher_*.yaml"),
           ROOT / "certify" / "cifar10_conv.yaml", ROOT / "pretrain" / "small_mobilenetv3.yaml"]  # fmt: skip

CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
STL10 = {"mean": (0.44087801806139126, 0.42790631331699347, 0.3867879370752931),
         "std": (0.26826768628079806, 0.2610450402318512, 0.26866836876860795)}  # fmt: skip
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SGD = {"optimiser": "sgd", "momentum": 0.9, "accumulate": 1, "clip_norm": None, "ema": None}

# HobbitLong/SupContrast (66a8fe5), JegZheng/CACR-SSL (fbc9d94), HobbitLong/CMC (7b227be), arXiv 2008.01342 (LoCo) and
# 2002.05709 (SimCLR), WOWNICE/ssl-small (815aea9): epochs, batch, rate, decay, crop, jitter and so on
SUPCON = {
    "train": {**SGD, "epochs": 1000, "batch_size": 1024, "lr": 0.5, "weight_decay": 1e-4, "decay_all": True,
              "schedule": "cosine", "warmup": 10 / 1000},
    "crop": (0.2, 1), "view": {**CIFAR10, "size": 32, "jitter": 0.8, "hue": 0.1, "grey": 0.2, "blur": 0},
    "strength": 0.4, "head": (2, 1, 128), "crops": 2,
}  # fmt: skip
CACR = {
    "train": {**SGD, "epochs": 200, "batch_size": 128, "lr": 0.12 * 128 / 256, "weight_decay": 1e-4,
              "decay_all": True, "schedule": "step", "gamma": 0.1, "warmup": 0},
    "drops": [155, 170, 185],
    "crop": (0.2, 1), "view": {**CIFAR10, "size": 32, "jitter": 1, "hue": 0.4, "grey": 0.2, "blur": 0},
    "strength": 0.4, "head": (1, 1, 128), "crops": 5,
}  # fmt: skip
LOCO = {
    "train": {"epochs": 800, "batch_size": 4096, "schedule": "cosine", "warmup": 10 / 800},
    "crop": (0.08, 1),
    "view": {**IMAGENET, "size": 224, "jitter": 0.8, "hue": 0.2, "grey": 0.2, "blur": 0.5, "blur_px": 2.0},
    "strength": 0.8, "head": (2, 1, 128), "crops": 2,
}  # fmt: skip
WEIGHED = {"name": "cacr", "weight": 1, "t_plus": 1.0}
TOLD: dict[str, dict[str, Any]] = {
    "published/cifar10_simclr": {**SUPCON, "objective": {"name": "infonce", "temperature": 0.5, "weight": 0.5 / 0.07}},
    "published/cifar10_supcon": {**SUPCON, "objective": {"name": "supcon", "temperature": 0.1,
                                                         "base_temperature": 0.07, "weight": 1}},
    "published/cifar10_cacr": {**CACR, "objective": {**WEIGHED, "t_minus": 0.9}},
    "published/stl10_cacr": {**CACR, "crop": (0.08, 1), "view": {**CACR["view"], **STL10, "size": 64},
                             "objective": {**WEIGHED, "t_minus": 2.0}},
    "published/imagenet_cacr": {
        "train": {**SGD, "epochs": 200, "batch_size": 256, "lr": 0.03, "weight_decay": 1e-4, "decay_all": True,
                  "schedule": "cosine", "warmup": 0},
        "crop": (0.2, 1), "view": {**LOCO["view"], "hue": 0.1}, "strength": 0.4, "head": (2, 1, 128), "crops": 5,
        "momentum": 0.999, "objective": {**WEIGHED, "t_minus": 2.0, "queue": 65536, "weights": "detached"},
    },
    "published/imagenet_simclr": {**LOCO, "objective": {"name": "infonce", "temperature": 0.1, "weight": 1}},
    "published/imagenet_loco": {**LOCO, "objective": {"name": "infonce", "temperature": 0.1, "weight": 1}},
    "published/stl10_cmc": {
        "train": {**SGD, "epochs": 240, "batch_size": 128, "lr": 0.03, "weight_decay": 1e-4, "decay_all": True,
                  "schedule": "step", "gamma": 0.1, "warmup": 0},
        "drops": [120, 160, 200], "crop": (0.08, 1), "head": (1, 1, 128), "crops": 1,
        # two losses are added, one a direction
        "objective": {"name": "nce", "temperature": 0.1, "weight": 2, "negatives": {"count": 16384, "draw": "sample"}},
    },
    "small_mobilenetv3": {
        "train": {**SGD, "epochs": 800, "batch_size": 512, "lr": 0.06, "weight_decay": 1e-4, "decay_all": True,
                  "schedule": "cosine", "warmup": 0},
        "crop": (0.2, 1), "view": {**LOCO["view"], "hue": 0.4, "grey": 0.5}, "strength": 0.8, "head": (2, 2, 128),
        "crops": 2, "momentum": 0.999,
        "objective": {"name": "infonce", "temperature": 0.1, "weight": 1,
                      "negatives": {"source": "queue", "count": 65536}},
    },
}  # fmt: skip


def written(config: object) -> dict[str, Any]:
    return to_dict(config, whole=True)


@pytest.mark.parametrize("name", TOLD)
def test_a_pretraining_recipe_has_the_published_numbers(name: str) -> None:
    told, found = TOLD[name], written(load(pretrain.Config, ROOT / "pretrain" / f"{name}.yaml"))
    train, head, (objective,) = found["train"], found["head"], found["objectives"].values()
    assert {key: train[key] for key in told["train"]} == pytest.approx(told["train"])
    assert tuple(train["crop"]["scale"]) == told["crop"] and train["crop"]["flip"] == 0.5
    assert train["crop"]["ratio"] == pytest.approx([3 / 4, 4 / 3], abs=1e-7)
    assert (head["layers"], head["width"], head["dim"]) == told["head"] and found["crops"] == told["crops"]
    assert (found["momentum"] or {}).get("decay") == told.get("momentum")
    for key, value in told["objective"].items():
        if isinstance(value, dict):
            assert objective[key].items() >= value.items(), key
        else:
            assert objective[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key
    if "view" in told:
        (view,) = found["views"].values()
        wanted = dict(told["view"], hue=told["view"]["hue"] * 2 * math.pi)
        wanted |= dict.fromkeys(("brightness", "contrast", "saturation"), told["strength"])
        for key, value in wanted.items():
            assert view[key] == pytest.approx(value, abs=1e-7), key


@pytest.mark.parametrize("name", [name for name, told in TOLD.items() if "drops" in told])
def test_a_rate_drops_after_the_published_epochs_to_the_step(name: str) -> None:
    train = load(pretrain.Config, ROOT / "pretrain" / f"{name}.yaml").train
    for epochs, milestone in zip(TOLD[name]["drops"], train.milestones, strict=True):
        for steps in (390, 781, 820):  # of an epoch
            # the first step at the lower rate, from 0; a float's last digit may be a step late
            assert 0 <= math.ceil(milestone * steps * train.epochs) - steps * epochs <= 1


def test_the_compression_recipes_have_the_published_numbers() -> None:
    paths = [*ROOT.glob("cifar100/*_to_*.yaml"), *ROOT.glob("cifar100/teacher_*.yaml")]
    assert len(paths) > 15
    for path in paths:
        teaches = "_to_" in path.name
        found = written(load(transfer.Config if teaches else supervise.Config, path))
        train, view = found["train"], found["views"]["rgb"]
        small = found["student"]["encoder"]["name"] in ("cifar_mobilenet", "cifar_shufflenet", "cifar_shufflenet_v2")
        wanted = {**SGD, "epochs": 240, "batch_size": 64, "lr": 0.01 if small else 0.05, "weight_decay": 5e-4,
                  "decay_all": True, "schedule": "step", "gamma": 0.1, "warmup": 0}  # fmt: skip
        assert {key: train[key] for key in wanted} == wanted, path
        assert [240 * share for share in train["milestones"]] == [150, 180, 210]
        assert view["mean"] == [0.5071, 0.4867, 0.4408] and view["std"] == [0.2675, 0.2565, 0.2761]
        assert (view["jitter"], view["grey"], view["blur"], view["size"]) == (0, 0, 0, 32)
        if teaches and "own_crd" not in path.name:
            assert found["objectives"].keys() == {"cross_entropy", "crd"}, path  # no kl term
            crd = found["objectives"]["crd"]
            assert (crd["weight"], crd["compat"]) == (0.8, "repdistiller")
            assert crd["negatives"].items() >= {"count": 16384, "apart": "label", "momentum": 0.5}.items()
            assert (crd["temperature"], crd["dim"], crd["positive"]) == (0.07, 128, "bank")
            assert found["objectives"]["cross_entropy"]["weight"] == 1


def test_all_shifts_of_a_padded_crop_are_equally_likely() -> None:
    asked = load(supervise.Config, ROOT / "cifar100" / "teacher_vgg13.yaml").train.crop
    crop = Crop(scale=asked.scale, ratio=asked.ratio, flip=asked.flip, shift=asked.shift)
    counts: Counter[int] = Counter()
    for number in range(9000):
        window = crop.draw(generator("shift", number))
        for start, extent in ((window.top, window.height), (window.left, window.width)):
            first, last = _interval(start, extent, 32)
            assert last - first == 32
            counts[first] += 1
    assert sorted(counts) == [*range(-4, 5)]  # padded by 4 and cropped to 32, as torchvision's RandomCrop
    deviations = [(count - 2000) / (2000 * 8 / 9) ** 0.5 for count in counts.values()]
    assert max(map(abs, deviations)) < 4.5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_head_of_a_recipe_lists_its_departures(path: Path) -> None:
    head = re.match(r"(#.*\n)+", path.read_text())
    assert head and ("Departures from the published" in head[0] or path.stem.endswith(("own_crd", "shards")))
