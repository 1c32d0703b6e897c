"""JSON text -> plain content -> frozen dataclasses, with checks of every type and range."""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

Kind = TypeVar("Kind")
LARGEST = 2**63 - 1  # maximum integer, as in a tensor of int64


def parse(text: str | bytes) -> Any:
    """The content of JSON text.

    Raises:
        ValueError: it is not JSON in UTF-8, has a number that is not finite, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def build(kind: type[Kind], content: Any) -> Kind:
    """A dataclass from plain content, with fields of any type that `build_value` gives.

    Raises:
        ValueError: the content is of another type, lacks a field, or has an unknown one; the message names its key.
    """
    value: Kind = build_value(kind, content, "")
    return value


def check_text(content: Any, place: str) -> None:
    """Refuses anything but text that can be encoded in UTF-8.

    Raises:
        ValueError: it is not such text; the message names `place`.
    """
    _expect(isinstance(content, str) and not any("\ud800" <= letter <= "\udfff" for letter in content), place,
            "text in Unicode", content)  # fmt: skip


def build_value(kind: Any, content: Any, place: str) -> Any:
    """A value from plain content.

    Args:
        kind: int, float, bool, str, list, tuple, dict[str, X], a dataclass, Any, or a union of a number, text, a list
            and None. Integers are counts and sizes, from 0 to `LARGEST`.
        content: the result of `parse`; lists become tuples if `kind` is a tuple.
        place: the content's key in messages.

    Raises:
        ValueError: the content is of another type; the message names its key.
    """
    origin, inner = get_origin(kind), get_args(kind)
    value: Any = content
    if is_dataclass(kind):
        value = _dataclass(kind, content, place)
    elif origin in (Union, types.UnionType):
        value = (
            None if content is None and type(None) in inner else build_value(_member(inner, content), content, place)
        )
    elif origin is dict:
        _expect(isinstance(content, Mapping), place, "a mapping", content)
        value = {
            build_value(str, name, place): build_value(inner[1], item, _dotted(place, name))
            for name, item in content.items()
        }
    elif origin in (list, tuple):
        _expect(isinstance(content, list | tuple), place, "a list", content)
        kinds = inner if origin is tuple and inner[-1] is not Ellipsis else inner[:1] * len(content)
        _expect(len(kinds) == len(content), place, f"a list of {len(kinds)}", content)
        value = origin(build_value(k, item, _dotted(place, str(i))) for i, (k, item) in enumerate(zip(kinds, content)))  # noqa: B905
    elif kind is int:
        _expect(type(content) is int and 0 <= content <= LARGEST, place, f"a whole number from 0 to {LARGEST}", content)
    elif kind is float:
        _expect(type(content) in (int, float) and _is_finite(content), place, "a finite number", content)
    elif kind is str:
        check_text(content, place)
    elif kind is bool:
        _expect(isinstance(content, bool), place, "true or false", content)
    else:
        assert kind is Any, f"{kind} is not a type of plain content"
    return value


def _member(union: tuple[Any, ...], content: Any) -> Any:
    """The member of a union for content of this type; the first if there is none, which then refuses the content."""
    wanted: tuple[type, ...] = (str,) if isinstance(content, str) else ()
    wanted = (list, tuple) if isinstance(content, list | tuple) else wanted
    members = [member for member in union if member is not type(None)]
    return next((member for member in members if (get_origin(member) or member) in wanted), members[0])


def _dataclass(kind: Any, content: Any, place: str) -> Any:
    _expect(isinstance(content, Mapping), place, "a mapping", content)
    hints, known = _fields(kind)
    if unknown := [name for name in content if name not in known]:
        raise ValueError(f"{_dotted(place, unknown[0])!r} is not known; known are {', '.join(known)}")
    for name, item in known.items():
        if name not in content and item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{_dotted(place, name)} is missing")
    return kind(**{name: build_value(hints[name], item, _dotted(place, name)) for name, item in content.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], dict[str, Field]]:
    return get_type_hints(kind), {item.name: item for item in fields(kind)}


def _expect(holds: bool, place: str, expected: str, content: Any) -> None:
    if not holds:
        text = repr(content)
        raise ValueError(f"{place or 'it'} must be {expected}, got {text[:80]}{'...' if text[80:] else ''}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"a number must be finite, got {name[:80]}")


def _dotted(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
