"""The students of an evaluation: which runs they come from, who taught them, and whether they may be compared."""

import re
from dataclasses import replace
from typing import Any

from crossmodal import models
from crossmodal.data.shards import Shards
from crossmodal.stores.paths import to_path
from modalities.common.catalogue import suggest
from modalities.rgb import Rgb
from pipelines.building.data import open_parts, open_shards
from pipelines.building.teachers import teacher_digest
from pipelines.config import ConfigError, leaves, to_dict
from pipelines.runs.folder import RunFolder
from pipelines.runs.lineage import origin
from pipelines.schemas import transfer
from pipelines.schemas.common import ViewConfig
from pipelines.schemas.evaluate import Config, DataConfig
from pipelines.schemas.trained import TrainedConfig


def refuse_unlike(name: str, folders: list[str], digests: list[str]) -> None:
    """Students of one name, whose mean is shown, differ by their seeds alone.

    Raises:
        ConfigError: one is there twice, or was trained otherwise than the first.
    """
    for place, digest in enumerate(digests):
        if (same := digests.index(digest)) < place:
            raise ConfigError([f"students.{name}: {folders[place]} has the weights of {folders[same]}, which would "
                               "count twice"])  # fmt: skip
    first, *others = [_training(folder) for folder in folders] if len(folders) > 1 else [{}]
    for folder, other in zip(folders[1:], others, strict=True):
        lines = [f"  {key}: {first.get(key, 'absent')} and {other.get(key, 'absent')}"
                 for key in dict.fromkeys([*first, *other]) if first.get(key) != other.get(key)]  # fmt: skip
        if lines:
            raise ConfigError([f"students.{name}: {folders[0]} and {folder} differ in more than their seed, so give "
                               "each a name of its own. What differs:", *lines])  # fmt: skip


def _training(folder: str) -> dict[str, str]:
    """The settings that students of one name must share, by dotted key; weights may belong to a seed."""
    path, config = origin(folder)
    before = RunFolder.of(path, "", config, {}).before
    assert before is not None
    read = {"pipeline": before["pipeline"], "data": before["inputs"]["data"]}
    plain = to_dict(config, runtime_only=False, whole=True) | read
    own = re.compile(r"seed|.+\.(weights|sha256|features)")
    return {key: value for key, value in leaves(plain).items() if not own.fullmatch(key)}


def taught(config: Config, folder: str) -> tuple[str, transfer.Config] | None:
    """The teacher that a student is compared with, and the config of the transfer by which it taught, if there was one.

    Raises:
        ConfigError: the folder is not that of a finished run, or of a transfer without such a teacher.
    """
    _, found = origin(folder)
    if not isinstance(found, transfer.Config) or not (found.teachers or config.teacher):
        return None
    name = config.teacher or next(iter(found.teachers), "")
    if name not in found.teachers:
        raise ConfigError([f"teacher: {folder} was not taught by {name!r}{suggest(name, list(found.teachers))}"])
    views = {key: replace(view, options=_given(view)) for key, view in found.views.items()}
    return name, replace(found, views=views)


def _given(view: ViewConfig) -> dict[str, Any]:
    """The options of a stored view, without an RGB normalisation that is the default: published weights replace it."""
    options = models.name_fit(view.modality, view.options)
    if view.modality != "rgb":
        return options
    unset = {name for name in ("mean", "std") if name in options and tuple(options[name]) == getattr(Rgb, name)}
    return {name: value for name, value in options.items() if name not in unset}


def shared_teacher(config: Config) -> dict[str, str]:
    """Names the weights of the one teacher that all students that had one are compared with; empty if none had.

    Raises:
        ConfigError: the students had several, or it has other weights now than when it taught.
    """
    digests = set()
    for folder in [folder for folders in config.students.values() for folder in folders]:
        path, trained = origin(folder)
        _refuse_other_parts(config.data, trained, folder)
        if (found := taught(config, folder)) is None:
            continue
        name, transfer = found
        digests.add(teacher_digest(transfer.teachers[name]))
        before = RunFolder.of(path, "transfer", transfer, {}).before
        if before is None or digests != {before["inputs"][f"teachers.{name}"]}:
            raise ConfigError([f"students: teacher {name!r} of {folder} is not the one that the others had, or has "
                               f"other weights now than when it taught; train the student again"])  # fmt: skip
    return {"teacher": digests.pop()} if digests else {}


def _refuse_other_parts(data: DataConfig, trained: TrainedConfig, folder: str) -> None:
    """Pairs that a student was trained on are not judged by.

    Raises:
        ConfigError: what is held out now was not held out then.
    """
    same = to_path(data.train).resolve() == to_path(trained.data).resolve()
    if data.held_out is not None and not (same and data.held_out == getattr(trained, "held_out", None)):
        raise ConfigError([f"data.held_out: {folder} was trained on {trained.data} without holding out the same "
                           "pairs, so it may have seen these"])  # fmt: skip


def open_data(data: DataConfig) -> tuple[Shards, Shards]:
    """The pairs to learn from, and those to judge by."""
    train, held = open_parts(data.train, data.held_out, "data.held_out" if data.held_out else "data.train")
    if held is not None:
        return train, held
    assert data.test is not None
    return train, open_shards(data.test, "data.test")
