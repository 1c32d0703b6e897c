"""Shards and views from configs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from crossmodal.data.held_out import hold_out, take_complete, tell_without
from crossmodal.data.reader import open_view
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.stores import cache
from modalities import MODALITIES
from pipelines.building.normalisation import published_normalisation
from pipelines.config import at
from pipelines.runs.console import say
from pipelines.schemas.common import CacheConfig, HeldOutConfig, StudentConfig, TeacherConfig, ViewConfig


def use_cache(config: CacheConfig | None) -> None:
    """Sets where shards in a store that are opened from now on are kept on the local disk; None: nowhere."""
    cache.use(None if config is None else cache.Cache(Path(config.dir), int(config.gb * 1e9)))


def open_shards(path: str, key: str) -> Shards:
    """The shards that a config names under `key`."""
    with at(key):
        return Shards.open(path)


def open_parts(path: str, held_out: HeldOutConfig | None, key: str) -> tuple[Shards, Shards | None]:
    """The training pairs and the held-out pairs of the shards that a config names."""
    shards = open_shards(path, key)
    with at(key):
        return (shards, None) if held_out is None else hold_out(shards, held_out.share, held_out.seed)


def leave_out(shards: Shards, modalities: Iterable[str], key: str) -> Shards:
    """The pairs that lack nothing of what the modalities read; one line says how many others there are.

    All processes get the same pairs. To hold out the same share whatever is read, hold it out first.

    Args:
        shards: the pairs, or a part of them.
        modalities: names of the modalities of the views that are needed.
        key: config key of the shards in messages.

    Raises:
        ConfigError: no pair is complete.
    """
    fields = [MODALITIES.get(name).field for name in modalities]
    with at(key):
        complete = take_complete(shards, fields)
    if left := len(shards) - len(complete):
        say(f"{shards.folder}: {left} of {len(shards)} pairs are left out, because they lack a view: "
            f"{tell_without(shards, fields)}")  # fmt: skip
    return complete


def open_views(
    shards: Shards,
    views: Mapping[str, ViewConfig],
    networks: Mapping[str, TeacherConfig | StudentConfig] = MappingProxyType({}),
    *,
    repeating: Collection[str] = (),
) -> dict[str, View]:
    """Every view of a config, opened on the shards.

    The view of a network with published weights gets that network's normalisation, unless the config sets one.

    Args:
        shards: their manifest describes the stored bytes.
        views: configs by name.
        networks: those that see the views, by config key.
        repeating: views whose random draws repeat with the windows; see `View.repeats`.

    Raises:
        ConfigError: a view cannot be opened, or its normalisation differs from that of a teacher on it.
    """
    opened = {}
    for name, config in views.items():
        options = config.options | published_normalisation(name, config, networks)
        with at(f"views.{name}"):
            view = open_view(shards, config.modality, aligned=config.aligned, **options)
        opened[name] = replace(view, repeats=name in repeating)
    return opened


def networks_of(
    teachers: Mapping[str, TeacherConfig], student: StudentConfig | None = None
) -> dict[str, TeacherConfig | StudentConfig]:
    """The networks of a transfer or an extraction, by config key."""
    named: dict[str, TeacherConfig | StudentConfig] = {f"teachers.{name}": each for name, each in teachers.items()}
    return named if student is None else named | {"student": student}
