"""Whether kept features are what a transfer's teacher would say, and if not, what differs and what makes them anew."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from crossmodal.data.features import FeatureShards
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from pipelines.building.teachers import teacher_digest
from pipelines.config import ConfigError, at, differences, to_plain
from pipelines.schemas.common import CropConfig, TeacherConfig, TrainConfig, ViewConfig


@runtime_checkable
class Taught(Protocol):
    """What the configs of `features` and `transfer` share."""

    @property
    def data(self) -> str:
        """The folder of shards."""

    @property
    def views(self) -> dict[str, ViewConfig]:
        """Named uses of modalities."""

    @property
    def teachers(self) -> dict[str, TeacherConfig]:
        """Frozen networks by name."""

    @property
    def seed(self) -> int:
        """The seed of all draws."""


def origin(config: Taught, name: str, crop: CropConfig, shards: Shards, views: Mapping[str, View]) -> dict[str, Any]:
    """All that decides what a teacher says of every pair, but for the number of windows, as JSON gives it back."""
    teacher, view = config.teachers[name], views[config.teachers[name].view]
    published = {key: to_plain(getattr(teacher, key)) for key in ("encoder", "classes", "first_layer")}
    with at(f"teachers.{name}.weights"):
        weights = teacher_digest(teacher)
    told = {
        "data": shards.manifest.digest,
        "weights": weights,
        "network": published if teacher.encoder else None,  # a run's folder knows its own, and its digest covers it
        "view": teacher.view,
        "preprocessing": {
            "modality": config.views[teacher.view].modality,
            "aligned": view.aligned,
            **asdict(view.modality),  # type: ignore[call-overload]  # every entry is a dataclass
        },
        "look": {key: value for key, value in to_plain(crop).items() if key != "windows"},
        "seed": config.seed,
        "crops": 2,  # the rule by which they are drawn; 1 clipped those that did not fit
    }  # fmt: skip
    return json.loads(json.dumps(told))


def open_features(
    config: Taught, train: TrainConfig, shards: Shards, views: Mapping[str, View]
) -> dict[str, FeatureShards]:
    """The kept features of every teacher that has them, known to be what it would say in this transfer.

    Raises:
        ConfigError: they are of something else, or of too few windows.
    """
    return {
        name: _open(config, name, train, shards, views)
        for name, teacher in config.teachers.items()
        if teacher.features is not None
    }


def _open(config: Taught, name: str, train: TrainConfig, shards: Shards, views: Mapping[str, View]) -> FeatureShards:
    key, folder = f"teachers.{name}.features", Path(str(config.teachers[name].features))
    with at(key):
        found = FeatureShards.open(folder, shards.places)
    wanted = min(train.epochs, train.crop.windows or train.epochs)
    needed = {"windows": wanted, **origin(config, name, train.crop, shards, views)}
    kept = {"windows": min(found.manifest.windows, wanted), **found.manifest.origin}
    if kept != needed:
        only_few = kept | {"windows": wanted} == needed
        raise ConfigError([
            f"{key}: {folder} holds other features than this transfer needs. What differs:",
            *(f"  {line}" for line in differences(kept, needed)),
            f"make them anew: {_renewal(folder, config, name, kept, needed)}",
            *([f"or set train.crop.windows={found.manifest.windows}"] if only_few else []),
        ])  # fmt: skip
    return found


def _renewal(folder: Path, config: Taught, name: str, kept: dict[str, Any], needed: dict[str, Any]) -> str:
    """The command that makes the features which are needed, beside the ones that are there."""
    teacher, view, run = f"teachers.{folder.name}", config.teachers[name].view, folder.parent
    network = to_plain(replace(config.teachers[name], features=None))
    before = kept["preprocessing"] if kept["view"] == view else {}  # another view may not be in the config yet
    eyes = {option: value for option, value in needed["preprocessing"].items() if before.get(option, ...) != value}
    settings = {
        "windows": {"crop.windows": needed["windows"]},
        "data": {"data": config.data},
        "weights": {teacher: network},
        "network": {teacher: network},
        "view": {f"views.{view}": eyes, f"{teacher}.view": view},
        "preprocessing": {f"views.{view}": eyes},
        "look": {"look": needed["look"]},
        "seed": {"seed": config.seed},
    }
    changed: dict[str, Any] = {}
    for group, values in settings.items():
        changed |= values if kept.get(group) != needed[group] else {}
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in changed.items()]
    return shlex.join(["crossmodal", "features", str(run / "config.yaml"), *words, f"output={run}.renewed"])
