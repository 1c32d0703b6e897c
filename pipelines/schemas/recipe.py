"""The objectives, learning rate and passes of a transfer whose config does not name them; docs/recipes.md has why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.schemas.common import ObjectiveConfig, TeacherConfig, TrainConfig, ViewConfig

# modalities whose views of a pair are aligned
PICTURES = ("chrominance", "depth", "luminance", "raster", "rgb", "thermal")
PAIRS_SEEN = 100_000  # over all passes
PASSES = (8, 60)  # least and most
NEW_RATE = 3e-3  # AdamW's peak rate for new weights


@dataclass(frozen=True)
class Recipe:
    """What a transfer does if its config names no objectives."""

    objectives: dict[str, ObjectiveConfig]
    lr: float  # AdamW's peak rate for a student with new weights


def choose_recipe(
    views: Mapping[str, ViewConfig], teachers: Mapping[str, TeacherConfig], student: str, *, knows_classes: bool
) -> Recipe:
    """`infonce`, `seed` and `kd` of teachers that know the classes; of others, `patch` between aligned pictures.

    Between views that are not aligned pictures it is `infonce` and `seed`, and with stored features
    (`teachers.NAME.features`) too, which may have no maps.

    Args:
        views: the views of the config.
        teachers: the teachers of the config.
        student: the name of the student's view.
        knows_classes: whether every teacher has logits for the classes of the pairs.
    """
    seen = [views[student], *(views[teacher.view] for teacher in teachers.values())]
    aligned = all(view.modality in PICTURES and view.aligned for view in seen)
    stored = any(teacher.features is not None for teacher in teachers.values())
    if aligned and not knows_classes and not stored:
        return Recipe({"patch": ObjectiveConfig("patch")}, lr=NEW_RATE)
    whole = {"infonce": ObjectiveConfig("infonce"), "seed": ObjectiveConfig("seed", weight=2.0)}
    return Recipe(whole | ({"kd": ObjectiveConfig("kd", weight=0.9)} if knows_classes else {}), lr=6e-3)


def sized(train: TrainConfig, pairs: int, *, is_new: bool) -> TrainConfig:
    """The settings with passes and learning rate, where the config does not say.

    Passes are such that a student sees `PAIRS_SEEN` pairs, from 8 to 60. AdamW's rate is 3e-3 for new weights and 1e-3
    for others; SGD's is 0.05.

    Args:
        train: settings of the config.
        pairs: number of pairs to train on.
        is_new: whether the student begins with new weights.
    """
    least, most = PASSES
    rate = 0.05 if train.optimiser == "sgd" else NEW_RATE if is_new else 1e-3
    return replace(
        train,
        epochs=min(most, max(least, math.ceil(PAIRS_SEEN / pairs))) if train.epochs is None else train.epochs,
        lr=rate if train.lr is None else train.lr,
    )
