"""The config of `crossmodal shards`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.config import choice, number, options_of, runtime_only
from pipelines.schemas.common import ViewConfig

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class SourceConfig:
    """Where pairs come from; further keys are the source's options."""

    name: str = choice("sources")  # see crossmodal list sources
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class Config:
    """What `crossmodal shards` reads."""

    source: SourceConfig  # where the pairs come from
    splits: list[str] | None = None  # which of the source's parts to write; null: all
    pairs_per_shard: int = number(1000, least=1)  # pairs in a tar
    sheet: dict[str, ViewConfig] = field(default_factory=dict)  # views for a contact sheet beside the shards; {}: none
    output: str = runtime_only("data/shards")  # folder; every part becomes a folder of shards in it
