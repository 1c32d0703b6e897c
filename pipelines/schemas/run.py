"""The config of `crossmodal run`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modalities.common.catalogue import suggest
from pipelines.config import FieldError, runtime_only


@dataclass(frozen=True)
class StageConfig:
    """One stage: a pipeline with its config file."""

    pipeline: str  # pipeline; see crossmodal list pipelines
    config: str  # config file, relative to this file
    set: dict[str, Any] = field(default_factory=dict)  # overrides; "@NAME" is the folder of an earlier stage


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal run`."""

    stages: dict[str, StageConfig]  # stages by name, in the order in which they run
    output: str = runtime_only("runs/run")  # folder; each stage writes to the subfolder of its name

    def __post_init__(self) -> None:
        from pipelines.registry import PIPELINES

        known = [name for name in PIPELINES.names() if name != "run"]
        for number, (name, stage) in enumerate(self.stages.items()):
            if not re.fullmatch(r"[\w-][\w.-]*", name):  # the name is also a folder's
                raise FieldError("stages", f"must be named by letters, digits, '_', '-' and '.', got {name!r}")
            if stage.pipeline not in known:
                raise FieldError(f"stages.{name}.pipeline", f"is not known{suggest(stage.pipeline, known)}")
            earlier = list(self.stages)[:number]
            for key, value in settings(stage.set, ""):
                if key == "output":
                    raise FieldError(f"stages.{name}.set.output", "must be left out: a stage writes to its own folder")
                for target, _ in references(value):
                    if target not in earlier:
                        raise FieldError(
                            f"stages.{name}.set.{key}", f"must name an earlier stage after @, got {target!r}"
                            f"{suggest(target, earlier)}"
                        )  # fmt: skip


def settings(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The overrides of a stage by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def references(value: Any) -> Iterator[tuple[str, str]]:
    """The stages that a value refers to, each with a subfolder: "@pairs/train" gives ("pairs", "train")."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.startswith("@"):
            stage, _, part = item[1:].partition("/")
            yield stage, part.partition("/")[0]
