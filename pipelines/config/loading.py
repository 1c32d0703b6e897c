"""Configs from YAML and overrides, and back: as frozen dataclasses, plain content or text."""

import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipelines.config.check import Walk
from pipelines.config.errors import ConfigError
from pipelines.config.fields import CATALOGUES
from pipelines.config.merge import find, merge, read, read_override, resolve
from pipelines.config.parse import Node, dump, place

Schema = TypeVar("Schema")


def load(schema: type[Schema], path: Path, overrides: Sequence[str] = (), *, stored: bool = False) -> Schema:
    """The config at `path`, over the files it is based on, under the overrides; later beats earlier.

    `a.b=value` sets (the value is YAML; mappings are joined), `~a.b` removes. In a mapping, the key `~name` removes
    what was there before. Where an entry's name changes, the options that files gave the old one go. `${a.b}` is
    another value that the files or overrides give, `${oc.env:VAR,default}` the environment's.

    Args:
        schema: the dataclass of the config.
        path: the config file.
        overrides: settings that replace those of the file.
        stored: whether the file is the config.yaml that an earlier version may have written into a run's folder. Keys
            that the schema's `RENAMED` lists are then read as their new ones; otherwise they are refused.

    Raises:
        ConfigError: all that is wrong, each problem with file and line or override.
    """
    problems: list[str] = []
    try:
        root = read(path, problems)
        for override in overrides:
            try:
                root = merge(root, read_override(override, problems, root), problems, keep_place=True)
            except ConfigError as error:
                problems.extend(error.problems)
        _refuse_set(schema, root, path, problems)
        config = Walk(problems, stored).read(schema, resolve(root, problems), "")
    except RecursionError as error:
        raise ConfigError([f"{path}: it or an override has lists or mappings too deep to be read"]) from error
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return config


def renew(schema: type, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plain config of an earlier run, from `to_dict`, under the keys of today; unchanged if it does not fit."""
    problems: list[str] = []
    config = Walk(problems, stored=True).read(schema, place(dict(values), ""), "")
    return values if problems else to_dict(config, runtime_only=False, whole=True)


def _refuse_set(schema: type, root: Node, path: Path, problems: list[str]) -> None:
    """What the config itself or an override says where it would count for nothing."""
    for key, by in getattr(schema, "DERIVED", {}).items():
        node = find(root, key.split("."))
        own = ("override ", f"{path.as_posix()}:")
        if node is not None and any(place.startswith(own) for place in (node.where, *node.touched)):
            problems.append(f"{node.places}: {key} is set by {by}; leave it out")


def to_dict(config: object, *, runtime_only: bool = True, whole: bool = False) -> dict[str, Any]:
    """The config as mappings, lists and scalars, every default written out, options beside the name they belong to.

    Fields that `DERIVED` names are left out. Without `runtime_only`, fields with that mark, which do not change the
    results, are left out too. If `whole`, options that are not given have their defaults; this imports the entries
    that are named.
    """
    assert is_dataclass(config)
    values: dict[str, Any] = {}
    for item in fields(config):
        value = to_plain(getattr(config, item.name), runtime_only=runtime_only, whole=whole)
        if "options_of" in item.metadata:
            values.update((_default_options(config, item) if whole else {}) | value)
        elif runtime_only or "free" not in item.metadata:
            values[item.name] = value
    return without(values, getattr(config, "DERIVED", ()))


def without(values: Mapping[str, Any], keys: Collection[str], key: str = "") -> dict[str, Any]:
    """A plain config without what stands at some dotted keys."""
    found = {name: (f"{key}.{name}" if key else name, child) for name, child in values.items()}
    return {
        name: without(child, keys, dotted) if isinstance(child, Mapping) else child
        for name, (dotted, child) in found.items()
        if dotted not in keys
    }


def to_plain(value: object, *, runtime_only: bool = True, whole: bool = False) -> Any:
    """A value of a config's field as mappings, lists and scalars; see `to_dict`."""
    if is_dataclass(value):
        return to_dict(value, runtime_only=runtime_only, whole=whole)
    if isinstance(value, Mapping):
        return {name: to_plain(child, runtime_only=runtime_only, whole=whole) for name, child in value.items()}
    return (
        [to_plain(child, runtime_only=runtime_only, whole=whole) for child in value]
        if isinstance(value, list | tuple)
        else value
    )


def to_yaml(config: object, *, whole: bool = False) -> str:
    """The config as YAML that `load` reads back as an equal config; of `whole`, see `to_dict`."""
    return dump(to_dict(config, whole=whole))


def _default_options(config: object, rest: Field[Any]) -> dict[str, Any]:
    """Defaults of the entry that a config names, but of what the shards know better."""
    own = {item.name: item for item in fields(config)}[rest.metadata["options_of"]]  # type: ignore[arg-type]
    name = getattr(config, own.name)
    if name is None:
        return {}
    catalogue = CATALOGUES[own.metadata["catalogue"]]
    kind = catalogue.get(name)
    taken = {*rest.metadata["supplied"], *getattr(kind, "stored", ())}
    known = {option: parameter.default for option, parameter in inspect.signature(kind).parameters.items()}
    made = {item.name: item.default_factory for item in (fields(kind) if is_dataclass(kind) else ())}
    known |= {option: make() for option, make in made.items() if make is not MISSING}
    defaults = {option: known[option] for option in catalogue.options(name) if option not in taken}
    return {option: to_plain(value) for option, value in defaults.items() if value is not inspect.Parameter.empty}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two plain configs do not share, as lines: "train.lr: 0.1 before, 0.2 now"."""
    old, new = leaves(before), leaves(now)
    return [
        f"{key}: {old.get(key, 'absent')} before, {new.get(key, 'absent')} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def leaves(values: Mapping[str, Any], key: str = "") -> dict[str, str]:
    """Leaves by dotted key, as JSON: 1 and 1.0 and true differ, as they do in a config."""
    found: dict[str, str] = {}
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else name
        if isinstance(value, Mapping) and value:
            found.update(leaves(value, dotted))
        else:
            found[dotted] = json.dumps(value)
    return found


@contextmanager
def at(key: str) -> Iterator[None]:
    """Names the config key behind a `ValueError` that a constructor raises.

    Raises:
        ConfigError: "views.depth: max_m must be above min_m, got ...".
    """
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([f"{key}: {error}"]) from error


@contextmanager
def within(place: str) -> Iterator[None]:
    """Names the place of every problem that is found inside: "stage student: ...".

    Raises:
        ConfigError: the same, with the place.
    """
    try:
        yield
    except ConfigError as error:
        raise type(error)([f"{place}: {problem}" for problem in error.problems]) from error
