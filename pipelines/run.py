"""Run several stages from one file; a stage whose config and inputs have not changed is not run again."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from modalities._catalogue import suggest
from pipelines import _processes
from pipelines._config import ConfigError, FieldError, free, load, to_dict, within
from pipelines._errors import FinishedError, printable


@dataclass(frozen=True)
class StageConfig:
    """One step of the whole."""

    pipeline: str  # which pipeline: see crossmodal list pipelines
    config: str  # its config file, relative to this one
    set: dict[str, Any] = field(default_factory=dict)  # settings over it; "@NAME" is the folder of an earlier stage


@dataclass(frozen=True)
class Config:
    """What `crossmodal run` reads."""

    stages: dict[str, StageConfig]  # in the order in which they run
    output: str = free("runs/run")  # folder; every stage's folder lies in it under the stage's name

    def __post_init__(self) -> None:
        from pipelines.__main__ import PIPELINES

        known = [name for name in PIPELINES.names() if name != "run"]
        for number, (name, stage) in enumerate(self.stages.items()):
            if not re.fullmatch(r"[\w-][\w.-]*", name):
                raise FieldError("stages", f"must be named by letters, digits, '_', '-' and '.', for a stage's name is "
                                 f"that of its folder, got {name!r}")  # fmt: skip
            if stage.pipeline not in known:
                raise FieldError(f"stages.{name}.pipeline", f"is not known{suggest(stage.pipeline, known)}")
            earlier = list(self.stages)[:number]
            for key, value in _leaves(stage.set, ""):
                if key == "output":
                    raise FieldError(f"stages.{name}.set.output", "must be left out, for the folder of a stage is its "
                                     "name's in output")  # fmt: skip
                for told, _ in _references(value):
                    if told not in earlier:
                        raise FieldError(
                            f"stages.{name}.set.{key}", f"must name an earlier stage after @, got {told!r}"
                            f"{suggest(told, earlier)}"
                        )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A stage with its checked config."""

    name: str
    pipeline: str
    module: ModuleType
    config: Any
    path: Path  # of its config file


def run(config: Config, path: Path) -> None:
    """Checks every stage's config, then runs the stages in order."""
    stages = _processes.together(lambda: _stages(config, path))
    from pipelines._run import RunFolder, agree  # torch, which no mistake in a config should wait for

    told = {stage.name: {"pipeline": stage.pipeline, **to_dict(stage.config)} for stage in stages}
    agree({"pipeline": "run", "config": {"stages": [*told], "stage": told}, "inputs": {}})
    for stage in stages:
        _processes.wait()
        with within(f"stage {stage.name}"):
            run = RunFolder.open(stage.pipeline, stage.config, stage.module.inputs)
            if stage.pipeline != "compare":  # which keeps the trainings that are still part of it
                run.make_room()
            try:
                stage.module.run(stage.config, stage.path)
            except FinishedError as finished:
                print(printable(str(finished)), flush=True)


def _stages(config: Config, path: Path) -> list[Stage]:
    """All stages, checked before any runs.

    Raises:
        ConfigError: everything that is wrong in any stage.
    """
    problems: list[str] = []
    found: list[Stage] = []
    for name, stage in config.stages.items():
        try:
            with within(f"stage {name}"):
                found.append(_stage(name, stage, config, path))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    _refuse_unknown_parts(config, {stage.name: stage for stage in found})
    return found


def _refuse_unknown_parts(config: Config, stages: Mapping[str, Stage]) -> None:
    """Refuses "@NAME/part" where the config of the stage says that it makes other parts.

    Raises:
        ConfigError: all of them.
    """
    problems: list[str] = []
    for name, stage in config.stages.items():
        for key, value in _leaves(stage.set, ""):
            for told, part in _references(value):
                parts = _parts(stages[told]) if part else []
                if parts and part not in parts:
                    problems.append(f"stages.{name}.set.{key}: stage {told!r} makes {', '.join(parts)}, but not "
                                    f"{part!r}{suggest(part, parts)}")  # fmt: skip
    if problems:
        raise ConfigError(problems)


def _parts(stage: Stage) -> list[str]:
    """The folders that a stage makes in its own, where its config tells; else none."""
    if stage.pipeline == "features":
        return [*stage.config.teachers]
    if stage.pipeline == "shards":
        from crossmodal import SOURCES

        try:
            source = SOURCES.get(stage.config.source.name)(**stage.config.source.options)
            return stage.config.splits or [*source.splits()]
        except (ValueError, LookupError, OSError, ModuleNotFoundError):
            return []  # the stage itself tells what is wrong with its source
    return []


def _stage(name: str, stage: StageConfig, config: Config, path: Path) -> Stage:
    from pipelines.__main__ import find_pipeline

    file = path.parent / stage.config
    module = find_pipeline(stage.pipeline)
    values = {key: _resolve(value, config.output) for key, value in _leaves(stage.set, "")}
    values["output"] = f"{config.output}/{name}"
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return Stage(name, stage.pipeline, module, load(module.Config, file, overrides), file)


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """The stages that a value names, each with the part in it: of "@pairs/train" they are "pairs" and "train"."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.startswith("@"):
            stage, _, part = item[1:].partition("/")
            yield stage, part.partition("/")[0]


def _resolve(value: Any, output: str) -> Any:
    """`@NAME/part` -> the folder of that stage; lists item by item."""
    if isinstance(value, list):
        return [_resolve(item, output) for item in value]
    return f"{output}/{value[1:]}" if isinstance(value, str) and value.startswith("@") else value
