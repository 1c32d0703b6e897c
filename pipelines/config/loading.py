"""Load configs from YAML files and overrides, and convert them to plain values or YAML."""

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
from pipelines.config.merge import GIVEN, merge, read, read_override, read_plain, resolve
from pipelines.config.parse import Node, along, dump, place

Schema = TypeVar("Schema")


def load(
    schema: type[Schema], config: Path | Mapping[str, Any], overrides: Sequence[str] = (), *, stored: bool = False
) -> Schema:
    """The config, merged over its base files and under the overrides; the last value of a key counts.

    `a.b=value` sets a value (YAML; mappings are merged) and `~a.b` removes one. In a mapping, the key `~name` removes
    an earlier entry. If the name of an entry changes, the options that files gave the old entry are dropped. `${a.b}`
    refers to another value of the files or overrides, `${oc.env:VAR,default}` to an environment variable.

    Args:
        schema: the dataclass of the config.
        config: its file, or its content as plain values; `base` in it is then relative to the working folder.
        overrides: settings that replace those of the file.
        stored: the file is the config.yaml of a run's folder, perhaps of an earlier version. The old keys in the
            schema's `RENAMED` are then read as the new ones; otherwise they are errors.

    Raises:
        ConfigError: all problems, each with its file and line or override.
    """
    problems: list[str] = []
    shown = config.as_posix() if isinstance(config, Path) else GIVEN
    try:
        root = read(config, problems) if isinstance(config, Path) else read_plain(config, problems)
        for override in overrides:
            try:
                root = merge(root, read_override(override, problems, root), problems)
            except ConfigError as error:
                problems.extend(error.problems)
        _refuse_set(schema, root, shown, problems)
        checked = Walk(problems, stored).read(schema, resolve(root, problems), "")
    except RecursionError as error:
        raise ConfigError([f"{shown}: it or an override has lists or mappings nested too deep"]) from error
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return checked


def renew(schema: type, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plain config of an earlier run, from `to_dict`, under the keys of today.

    It is unchanged if it does not fit the schema, or if the schema has new options: what these were is not known.
    """
    problems: list[str] = []
    config = Walk(problems, stored=True).read(schema, place(dict(values), ""), "")
    renewed = values if problems else to_dict(config, runtime_only=False, whole=True)
    return renewed if len(leaves(renewed)) == len(leaves(values)) else values


def _refuse_set(schema: type, root: Node, shown: str, problems: list[str]) -> None:
    """Reports values that the config or an override gives for fields that the code sets."""
    for key, by in getattr(schema, "DERIVED", {}).items():
        nodes, own = along(root, key), ("override ", f"{shown}:")
        node = nodes[-1]
        is_given = any(place == shown or place.startswith(own) for place in (node.where, *node.touched))
        if len(nodes) > len(key.split(".")) and is_given:
            problems.append(f"{node.places}: {key} is set by {by}; leave it out")


def to_dict(config: object, *, runtime_only: bool = True, whole: bool = False) -> dict[str, Any]:
    """The config as mappings, lists and scalars with all defaults, and options beside the name they belong to.

    Fields in `DERIVED` are left out, and without `runtime_only` also the fields with that mark. With `whole`, options
    that are not given have their defaults, for which the named entries are imported.
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
    """A plain config without some dotted keys."""
    items = {name: (f"{key}.{name}" if key else name, child) for name, child in values.items()}
    return {
        name: without(child, keys, dotted) if isinstance(child, Mapping) else child
        for name, (dotted, child) in items.items()
        if dotted not in keys
    }


def to_plain(value: object, *, runtime_only: bool = True, whole: bool = False) -> Any:
    """The value of a field as mappings, lists and scalars; see `to_dict`."""
    if is_dataclass(value):
        return to_dict(value, runtime_only=runtime_only, whole=whole)
    if isinstance(value, Mapping):
        return {name: to_plain(child, runtime_only=runtime_only, whole=whole) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(child, runtime_only=runtime_only, whole=whole) for child in value]
    return value


def to_yaml(config: object, *, whole: bool = False) -> str:
    """The config as YAML, which `load` reads back as an equal config; for `whole`, see `to_dict`."""
    return dump(to_dict(config, whole=whole))


def _default_options(config: object, rest: Field[Any]) -> dict[str, Any]:
    """Defaults of the options of the named entry; without those that shards store, and those that are `added`."""
    own = {item.name: item for item in fields(config)}[rest.metadata["options_of"]]  # type: ignore[arg-type]
    name = getattr(config, own.name)
    if name is None:
        return {}
    catalogue = CATALOGUES[own.metadata["catalogue"]]
    kind = catalogue.get(name)
    taken = {*rest.metadata["supplied"], *getattr(kind, "stored", ()), *getattr(kind, "added", ())}
    known = {option: parameter.default for option, parameter in inspect.signature(kind).parameters.items()}
    made = {item.name: item.default_factory for item in (fields(kind) if is_dataclass(kind) else ())}
    known |= {option: make() for option, make in made.items() if make is not MISSING}
    defaults = {option: known[option] for option in catalogue.options(name) if option not in taken}
    return {option: to_plain(value) for option, value in defaults.items() if value is not inspect.Parameter.empty}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences of two plain configs as lines such as "train.lr: 0.1 before, 0.2 now"."""
    old, new = leaves(before), leaves(now)
    return [
        f"{key}: {old.get(key, 'absent')} before, {new.get(key, 'absent')} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, "absent") != new.get(key, "absent")
    ]


def leaves(values: Mapping[str, Any], key: str = "") -> dict[str, str]:
    """The leaves by dotted key, as JSON, so that 1, 1.0 and true differ as they do in a config."""
    texts: dict[str, str] = {}
    for name, value in values.items():
        dotted = f"{key}.{name}" if key else name
        if isinstance(value, Mapping) and value:
            texts.update(leaves(value, dotted))
        else:
            texts[dotted] = json.dumps(value)
    return texts


@contextmanager
def at(key: str) -> Iterator[None]:
    """Adds the config key to a `ValueError` that a constructor raises inside.

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
    """Adds the place to all problems raised inside: "stage student: ...".

    Raises:
        ConfigError: the problems with the place.
    """
    try:
        yield
    except ConfigError as error:
        raise type(error)([f"{place}: {problem}" for problem in error.problems]) from error
