"""The checks behind the import hook: shapes by jaxtyping, and types by beartype, for which a whole number is a number.

For a function without shapes, jaxtyping's wrapper finds nothing and costs many times as much as beartype's own.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

WITH_SHAPES = jaxtyping.jaxtyped
check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))


def jaxtyped(*, typechecker: Callable) -> Callable:
    """Takes the place of jaxtyping's decorator: the same checks of every annotation."""

    def decorate(thing: Any) -> Any:
        function = thing.__init__ if inspect.isclass(thing) else thing
        plain = dataclasses.is_dataclass(thing) if inspect.isclass(thing) else inspect.isfunction(thing)
        if not plain or any(map(has_shape, function.__annotations__.values())):
            return WITH_SHAPES(typechecker=typechecker)(thing)
        if function is thing:
            return check(thing)
        thing.__init__ = check(function)
        return thing

    return decorate


def has_shape(annotation: Any) -> bool:
    """Whether there is, or may be, a shape in an annotation; a string may be anything."""
    if isinstance(annotation, str):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    inner = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(has_shape, inner))
