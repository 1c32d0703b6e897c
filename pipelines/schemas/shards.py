"""The config of `crossmodal shards`."""

from dataclasses import dataclass, field
from typing import Any

from pipelines.config import choice, number, options_of, runtime_only
from pipelines.schemas.common import ViewConfig


@dataclass(frozen=True)
class SourceConfig:
    """A source of pairs with its options."""

    name: str = choice("sources")  # kind of source; see crossmodal list sources
    options: dict[str, Any] = options_of("name")


@dataclass(frozen=True)
class Config:
    """The config of `crossmodal shards`."""

    source: SourceConfig  # where the pairs come from
    splits: list[str] | None = None  # splits of the source to write; null: all
    pairs_per_shard: int = number(1000, least=1)  # pairs per tar file
    sheet: dict[str, ViewConfig] = field(default_factory=dict)  # views to draw on a contact sheet; {}: no sheet
    workers: int = number(1, least=1, runtime_only=True)  # processes that pack; the bytes are those of one
    # check on some pairs of each split that their streams show the same scene at the same time; see docs/formats.md
    pairing: bool = runtime_only(True)
    output: str = runtime_only("data/shards")  # folder; each split is written to a subfolder
