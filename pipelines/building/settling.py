"""Fills the values of a config that follow from its inputs, when a run is opened."""

from dataclasses import replace
from typing import Any

from pipelines.building import published
from pipelines.building.data import open_shards
from pipelines.building.teachers import teacher_classes
from pipelines.schemas import transfer
from pipelines.schemas.recipe import choose_recipe


def settle(config: Any) -> Any:
    """The config of any pipeline with what the names of published networks imply, and a transfer's recipe.

    It changes nothing that the config says, and does nothing twice.

    Raises:
        ConfigError: a teacher or its files are missing, or the config contradicts them.
        ShardError: the pairs cannot be opened.
    """
    config = published.settle(config)
    return _with_recipe(config) if isinstance(config, transfer.Config) and not config.objectives else config


def _with_recipe(config: transfer.Config) -> transfer.Config:
    classes = open_shards(config.data, "data").manifest.classes
    theirs = [teacher_classes(teacher, f"teachers.{name}") for name, teacher in config.teachers.items()]
    knows_classes = bool(theirs) and all(each and each == (classes or theirs[0]) for each in theirs)
    recipe = choose_recipe(config.views, config.teachers, config.student.view, knows_classes=knows_classes)
    train = config.train
    if train.lr is None and train.optimiser == "adamw" and config.student.weights is None:
        train = replace(train, lr=recipe.lr)
    return replace(config, objectives=recipe.objectives, train=train)
