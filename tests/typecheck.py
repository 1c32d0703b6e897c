"""The checks behind the import hook: shapes by jaxtyping, and types by beartype, for which a whole number is a number.

For a function without shapes, jaxtyping's wrapper finds nothing and costs many times as much as beartype's own. With
shapes it takes half of the time to read a pair, so a function that has been called with arguments of the same types and
shapes is not checked again.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
import numpy as np
from beartype import BeartypeConf, beartype
from torch import Tensor

WITH_SHAPES = jaxtyping.jaxtyped
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))


def jaxtyped(*, typechecker: Callable) -> Callable:
    """Takes the place of jaxtyping's decorator: the same checks of every annotation."""

    def decorate(thing: Any) -> Any:
        function = thing.__init__ if inspect.isclass(thing) else thing
        plain = dataclasses.is_dataclass(thing) if inspect.isclass(thing) else inspect.isfunction(thing)
        if not plain or any(map(has_shape, function.__annotations__.values())):
            checked = WITH_SHAPES(typechecker=typechecker)(thing)
            return once(thing, checked) if inspect.isfunction(thing) else checked
        if function is thing:
            return check(thing)
        thing.__init__ = check(function)
        return thing

    return decorate


def once(function: Callable, checked: Callable) -> Callable:
    """The function, which is checked when its arguments differ in type, shape or plain value from those before."""
    passed: set[object] = set()

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        kinds = [*map(kind_of, args), *((name, kind_of(value)) for name, value in options.items())]
        # an object in front may have the sizes that shapes name
        kind = (id(args[0]) if kinds and isinstance(kinds[0], type) else None, *kinds)
        if kind in passed:
            return function(*args, **options)
        result = checked(*args, **options)
        passed.add(kind)
        return result

    return call


def kind_of(value: Any) -> object:
    """What a check sees of an argument: type, shape, and the whole numbers and names that shapes are written with."""
    if isinstance(value, Tensor) and any(type(size) is not int for size in value.shape):
        return object()  # torch traces it, and to compare a size would fix it
    if isinstance(value, Tensor | np.ndarray):
        return type(value), value.dtype, tuple(value.shape)
    if isinstance(value, int | str | None):
        return value
    if isinstance(value, list | tuple):
        return type(value), *map(kind_of, value)
    if isinstance(value, dict):
        return dict, *((name, kind_of(item)) for name, item in value.items())
    return type(value)


def has_shape(annotation: Any) -> bool:
    """Whether there is, or may be, a shape in an annotation; a string may be anything."""
    if isinstance(annotation, str):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    inner = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(has_shape, inner))
