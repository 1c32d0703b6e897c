"""Markers for the fields of config dataclasses, and functions that read them."""

import ast
import inspect
import operator
import textwrap
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import crossmodal
import modalities
from crossmodal.contrast.options import Negatives
from modalities.common.catalogue import Catalogue, Option, read_options

CATALOGUES: dict[str, Catalogue] = {
    "modalities": modalities.MODALITIES,
    "encoders": crossmodal.ENCODERS,
    "objectives": crossmodal.OBJECTIVES,
    "multiview": crossmodal.MULTIVIEW,
    "sources": crossmodal.SOURCES,
    "evaluations": crossmodal.EVALUATIONS,
}
_NAMES = {"int": int, "float": float, "bool": bool, "str": str, "tuple": tuple, "list": list, "dict": dict}
_GROUPS = {"Negatives": Negatives}  # dataclasses of options that several entries share
_SPELT = {None: "null", True: "true", False: "false"}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def choice(catalogue: str, default: Any = MISSING, *, from_key: bool = False) -> Any:
    """A field that names an entry of a catalogue.

    A plain name is short for a dataclass with such a field: `encoder: convnet`.

    Args:
        catalogue: "modalities", "encoders", "objectives", "multiview", "sources" or "evaluations".
        default: the default entry; without it, the field is required.
        from_key: in a mapping of such dataclasses, the key is the default name: `crd: {}`.
    """
    assert catalogue in CATALOGUES, f"catalogue must be one of {', '.join(CATALOGUES)}, got {catalogue!r}"
    return field(default=default, metadata={"catalogue": catalogue, "from_key": from_key})


def options_of(name_field: str, *, supplied: tuple[str, ...] = ()) -> Any:
    """A field that takes all other keys as options of the entry that `name_field` names.

    Args:
        name_field: the `choice` field beside it.
        supplied: options that the code sets; a config must not give them.
    """
    return field(default_factory=dict, metadata={"options_of": name_field, "supplied": supplied})


def runtime_only(default: Any = MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """A field that does not change results, such as an output path or the number of workers."""
    given = {"default": default} if factory is None else {"default_factory": factory}
    return field(**given, metadata={"free": True})


def number(
    default: Any = MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    runtime_only: bool = False,
) -> Any:
    """A field of finite numbers in a range; null is not checked.

    Args:
        default: a number, null, or a tuple or list of numbers.
        least: inclusive lower bound.
        above: exclusive lower bound.
        most: inclusive upper bound.
        below: exclusive upper bound.
        runtime_only: the field does not change results.
    """
    metadata = {"free": True} if runtime_only else {}
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    ranged = metadata | {"bounds": {word: bound for word, bound in bounds.items() if bound is not None}}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=ranged)
    return field(default=default, metadata=ranged)


def bounds_of(metadata: Mapping[str, Any]) -> str:
    """The range of a `number` in words, such as "at least 0 and below 1"; empty for other fields."""
    return " and ".join(f"{word} {bound:g}" for word, bound in metadata.get("bounds", {}).items())


def is_within(metadata: Mapping[str, Any], value: Any) -> bool:
    """True if all numbers of the value lie in the field's range."""
    tests = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
    numbers = value if isinstance(value, list | tuple) else [value]
    return all(
        tests[word](number, bound)
        for word, bound in metadata.get("bounds", {}).items()
        for number in numbers
        if number is not None
    )


def marked(schema: type, mark: str) -> Field[Any] | None:
    """The first field with a mark: "catalogue" (a `choice`), "options_of", or "short" (set by a plain word)."""
    return next((item for item in fields(schema) if mark in item.metadata), None)


def is_required(item: Field[Any]) -> bool:
    """True if the field has no default."""
    return item.default is MISSING and item.default_factory is MISSING


def evaluate(option: Option) -> Any:
    """The type of a catalogue entry's option.

    Raises:
        TypeError: a config cannot give a value of this type.
    """
    try:
        kind = eval(option.annotation, {"__builtins__": {}}, {**_NAMES, **_GROUPS, "Literal": Literal, "Any": Any})
    except Exception:
        kind = ...
    if not _is_readable(kind):
        raise TypeError(
            f"option {option.name} has the type {option.annotation!r}, which a config cannot give; "
            f"use {', '.join(_NAMES)}, Literal and None"
        )
    return kind


def group_of(option: Option) -> type | None:
    """The dataclass that is the type of a catalogue entry's option; None for other types."""
    return _GROUPS.get(option.annotation)


@cache
def declared(schema: type) -> dict[str, Option]:
    """The fields of a dataclass and its bases as written in the source, with their comments."""
    options: dict[str, Option] = {}
    for part in reversed(schema.__mro__):
        if is_dataclass(part):
            source = textwrap.dedent(inspect.getsource(part))
            node = ast.parse(source).body[0]
            assert isinstance(node, ast.ClassDef)
            options.update(read_options(source, node))
    return options


def describe(kind: Any) -> str:
    """A type in words, for messages: "a list, each a whole number"."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in inner)
    if origin is Literal:
        return f"one of {', '.join(show(value) for value in inner)}"
    if origin is dict:
        return "a mapping" if is_dataclass(inner[1]) else f"a mapping of names, each to {describe(inner[1])}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a list of {len(inner)} ({', '.join(describe(member) for member in inner)})"
    if origin in (list, tuple):
        return f"a list, each {describe(inner[0])}"
    return "anything" if kind is Any else _WORDS.get(kind, "a mapping")


def show(value: Any) -> str:
    """A value as written in a config."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(item) for item in value)}]"
    return _SPELT[value] if value is None or isinstance(value, bool) else repr(value)


def _is_readable(kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType, list, tuple, dict):
        return all(_is_readable(member) for member in inner if member is not Ellipsis)
    return kind is Any or origin is Literal or kind in _WORDS or kind in _GROUPS.values()
