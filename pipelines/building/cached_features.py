"""Checks that cached features are what a transfer's teacher would compute; if not, names the differences."""

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from crossmodal.data.features import FeatureShards
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.stores.paths import to_path
from pipelines.building.teachers import teacher_digest
from pipelines.config import ConfigError, at, differences, to_plain
from pipelines.schemas.common import CropConfig, TeacherConfig, TrainConfig, ViewConfig


@runtime_checkable
class Taught(Protocol):
    """The fields that the configs of `features` and `transfer` share."""

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
    """Everything that decides a teacher's features, except the number of windows, in JSON's types."""
    teacher, view = config.teachers[name], views[config.teachers[name].view]
    published = {key: to_plain(getattr(teacher, key)) for key in ("encoder", "classes", "first_layer")}
    with at(f"teachers.{name}.weights"):
        weights = teacher_digest(teacher)
    decisive = {
        "data": shards.manifest.digest,
        "weights": weights,
        "network": published if teacher.encoder else None,  # a run's folder records its own, and its digest covers it
        "view": teacher.view,
        "preprocessing": {
            "modality": config.views[teacher.view].modality,
            "aligned": view.aligned,
            **view.modality.recorded(),
        },
        "look": {key: value for key, value in to_plain(crop).items() if key != "windows"},  # the crop's stored name
        "seed": config.seed,
        "crops": 2,  # version of the rule that draws them; version 1 clipped crops that did not fit
    }
    return json.loads(json.dumps(decisive))


def open_features(
    config: Taught, train: TrainConfig, shards: Shards, views: Mapping[str, View]
) -> dict[str, FeatureShards]:
    """The cached features of every teacher that has them, checked to be what it would compute in this transfer.

    Raises:
        ConfigError: they were computed from something else, or have too few windows.
    """
    return {
        name: _open(config, name, train, shards, views)
        for name, teacher in config.teachers.items()
        if teacher.features is not None
    }


def _open(config: Taught, name: str, train: TrainConfig, shards: Shards, views: Mapping[str, View]) -> FeatureShards:
    key, folder = f"teachers.{name}.features", to_path(str(config.teachers[name].features))
    with at(key):
        features = FeatureShards.open(folder, shards.places)
    origins = features.manifest.origin
    wanted = min(train.passes, train.crop.windows or train.passes)
    needed = {"windows": wanted, **origin(config, name, train.crop, shards, views)}
    # earlier versions stretched every picture to a square and did not record it
    unrecorded = {"fit": "stretch", "height": None, "width": None}
    preprocessing = {key: value for key, value in unrecorded.items() if key in needed["preprocessing"]}
    preprocessing |= origins["preprocessing"]
    cached = {"windows": min(features.manifest.windows, wanted), **origins, "preprocessing": preprocessing}
    if cached != needed:
        named = [{"crop" if key == "look" else key: value for key, value in each.items()} for each in (cached, needed)]
        only_few = cached | {"windows": wanted} == needed
        instead = f", or set train.crop.windows={features.manifest.windows}" if only_few else ""
        problem = f"{key}: {folder} holds other features than this transfer needs. What differs:"
        remedy = f"make them again with crossmodal features, with the values of now{instead}"
        raise ConfigError([problem, *(f"  {line}" for line in differences(*named)), remedy])
    return features
