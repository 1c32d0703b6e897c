"""The config of `crossmodal run`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modalities.common.catalogue import suggest
from pipelines.config import FieldError, runtime_only


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
    output: str = runtime_only("runs/run")  # folder; every stage's folder lies in it under the stage's name

    def __post_init__(self) -> None:
        from pipelines.registry import PIPELINES

        known = [name for name in PIPELINES.names() if name != "run"]
        for number, (name, stage) in enumerate(self.stages.items()):
            if not re.fullmatch(r"[\w-][\w.-]*", name):
                raise FieldError("stages", f"must be named by letters, digits, '_', '-' and '.', for a stage's name is "
                                 f"that of its folder, got {name!r}")  # fmt: skip
            if stage.pipeline not in known:
                raise FieldError(f"stages.{name}.pipeline", f"is not known{suggest(stage.pipeline, known)}")
            earlier = list(self.stages)[:number]
            for key, value in settings(stage.set, ""):
                if key == "output":
                    raise FieldError(f"stages.{name}.set.output", "must be left out, for the folder of a stage is its "
                                     "name's in output")  # fmt: skip
                for told, _ in references(value):
                    if told not in earlier:
                        raise FieldError(
                            f"stages.{name}.set.{key}", f"must name an earlier stage after @, got {told!r}"
                            f"{suggest(told, earlier)}"
                        )  # fmt: skip


def settings(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The settings of a stage by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def references(value: Any) -> Iterator[tuple[str, str]]:
    """The stages that a value names, each with the part in it: of "@pairs/train" they are "pairs" and "train"."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.startswith("@"):
            stage, _, part = item[1:].partition("/")
            yield stage, part.partition("/")[0]
