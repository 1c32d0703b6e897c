"""Run several stages from one file; stages whose config and inputs have not changed are skipped."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from modalities.common.catalogue import suggest
from pipelines.config import ConfigError, load, to_dict, within
from pipelines.config.errors import FinishedError
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.runs.folder import RunFolder, agree
from pipelines.schemas.run import Config, StageConfig, references, settings


@dataclass(frozen=True)
class Stage:
    """A stage with its checked config."""

    name: str
    pipeline: str
    module: ModuleType
    config: Any
    path: Path  # config file


def run(config: Config, path: Path) -> None:
    """Checks every stage's config, then runs the stages in order."""
    stages = distributed.together(lambda: _stages(config, path))
    configs = {stage.name: {"pipeline": stage.pipeline, **to_dict(stage.config)} for stage in stages}
    agree({"pipeline": "run", "config": {"stages": [*configs], "stage": configs}, "inputs": {}})
    for stage in stages:
        distributed.wait()
        with within(f"stage {stage.name}"):
            run = RunFolder.open(stage.pipeline, stage.config, stage.module.inputs)
            if stage.pipeline != "compare":  # compare reuses finished trainings in its folder
                run.make_room()
            try:
                stage.module.run(stage.config, stage.path)
            except FinishedError as finished:
                say(str(finished))


def _stages(config: Config, path: Path) -> list[Stage]:
    """All stages with their configs, checked before any stage runs.

    Raises:
        ConfigError: all problems of all stages.
    """
    problems: list[str] = []
    stages: list[Stage] = []
    for name, stage in config.stages.items():
        try:
            with within(f"stage {name}"):
                stages.append(_stage(name, stage, config, path))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    _refuse_unknown_parts(config, {stage.name: stage for stage in stages})
    return stages


def _refuse_unknown_parts(config: Config, stages: Mapping[str, Stage]) -> None:
    """Checks every "@NAME/part" against the parts that the config of stage NAME makes.

    Raises:
        ConfigError: all unknown parts.
    """
    problems: list[str] = []
    for name, stage in config.stages.items():
        for key, value in settings(stage.set, ""):
            for target, part in references(value):
                parts = _parts(stages[target]) if part else []
                if parts and part not in parts:
                    problems.append(f"stages.{name}.set.{key}: stage {target!r} makes {', '.join(parts)}, but not "
                                    f"{part!r}{suggest(part, parts)}")  # fmt: skip
    if problems:
        raise ConfigError(problems)


def _parts(stage: Stage) -> list[str]:
    """The subfolders that a stage makes, if its config determines them; otherwise none."""
    if stage.pipeline == "features":
        return [*stage.config.teachers]
    if stage.pipeline == "shards":
        from crossmodal import SOURCES

        try:
            source = SOURCES.get(stage.config.source.name)(**stage.config.source.options)
            return stage.config.splits or [*source.splits()]
        except (ValueError, LookupError, OSError, ModuleNotFoundError):
            return []  # the stage reports the problem itself
    return []


def _stage(name: str, stage: StageConfig, config: Config, path: Path) -> Stage:
    from pipelines.registry import find_pipeline

    file = path.parent / stage.config
    module = find_pipeline(stage.pipeline)
    values = {key: _resolve(value, config.output) for key, value in settings(stage.set, "")}
    values["output"] = f"{config.output}/{name}"
    overrides = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return Stage(name, stage.pipeline, module, load(module.Config, file, overrides), file)


def _resolve(value: Any, output: str) -> Any:
    """The folder of `@NAME/part`, also inside lists; other values are unchanged."""
    if isinstance(value, list):
        return [_resolve(item, output) for item in value]
    return f"{output}/{value[1:]}" if isinstance(value, str) and value.startswith("@") else value
