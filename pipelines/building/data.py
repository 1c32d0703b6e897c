"""Shards and views from configs."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from crossmodal.data.held_out import hold_out
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from pipelines.building.normalisation import published_normalisation
from pipelines.config import at
from pipelines.schemas.common import (
    HeldOutConfig,
    StudentConfig,
    TeacherConfig,
    ViewConfig,
)


def open_shards(path: str, key: str) -> Shards:
    """The shards a config names under `key`."""
    with at(key):
        return Shards.open(path)


def open_parts(path: str, held_out: HeldOutConfig | None, key: str) -> tuple[Shards, Shards | None]:
    """The shards a config names: the pairs to learn from, and those held out of them."""
    shards = open_shards(path, key)
    with at(key):
        return (shards, None) if held_out is None else hold_out(shards, held_out.share, held_out.seed)


def open_views(
    shards: Shards,
    views: Mapping[str, ViewConfig],
    networks: Mapping[str, TeacherConfig | StudentConfig] = MappingProxyType({}),
    *,
    repeating: Collection[str] = (),
) -> dict[str, View]:
    """Every view of a config, on the shards' own description of their bytes; see `View.repeats`.

    A view that a network with published weights sees is normalised as that network was, unless the config says how.

    Args:
        shards: whose manifest describes the bytes.
        views: by name.
        networks: those that see the views, by their key in the config.
        repeating: views whose draws return with the windows.

    Raises:
        ConfigError: a view cannot be opened, or its normalisation is not that of a teacher which sees it.
    """
    opened = {}
    for name, config in views.items():
        told = config.options | published_normalisation(name, config, networks)
        with at(f"views.{name}"):
            view = open_view(shards, config.modality, aligned=config.aligned, **told)
        opened[name] = replace(view, repeats=name in repeating)
    return opened


def networks_of(
    teachers: Mapping[str, TeacherConfig], student: StudentConfig | None = None
) -> dict[str, TeacherConfig | StudentConfig]:
    """The networks of a transfer or an extraction by their key in the config."""
    named: dict[str, TeacherConfig | StudentConfig] = {f"teachers.{name}": each for name, each in teachers.items()}
    return named if student is None else named | {"student": student}
