"""The `members` of a source: fields of a pair, with the modality that reads their stored bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from crossmodal.data.manifest import read_stored
from crossmodal.sources import SourceError
from modalities import MODALITIES, Modality
from modalities.common.catalogue import suggest


def open_member(name: str, options: Mapping[str, Any], *own: str) -> Modality:
    """The modality of a field, with the options of its stored bytes.

    Args:
        name: of the member, which is the modality's field.
        options: of the member: modality, those of its stored bytes, and the source's.
        own: options that the source itself reads.

    Raises:
        SourceError: the modality or an option is not known, or has a wrong value.
    """
    chosen, place = options.get("modality"), f"members.{name}"
    if chosen not in MODALITIES.names():
        raise SourceError(f"{place}.modality: {chosen!r} is not known{suggest(str(chosen), MODALITIES.names())}")
    kind: type[Any] = MODALITIES.get(chosen)
    if kind.field != name:
        raise SourceError(f"{place}: modality {chosen} is stored as {kind.field!r}; rename this member to {kind.field}")
    known = [*own, "modality", *kind.stored]
    for option in options:
        if option not in known:
            raise SourceError(
                f"{place}.{option} is not known{suggest(option, known)}; "
                "options of the network's input belong to the views of a run"
            )
    if kind.classes and "classes" not in options:
        raise SourceError(
            f"{place}.classes must be given: the names of the stored values, ascending from 0, or a text file of them"
        )
    try:  # types first: a string never equals a stored number, so no reading would be invalid
        stored = read_stored(kind, options, place)
    except ValueError as error:
        raise SourceError(str(error)) from None
    try:
        return kind(**stored)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{place}: {error}") from error


def unit_of_depth(readings: Shaped[np.ndarray, " readings"], where: str, option: str) -> str:
    """The message that the unit of depth must be given, with what the readings would mean in common units.

    Args:
        readings: numbers of a map as they are stored.
        where: the map, for the message.
        option: key of the unit, for the message.
    """
    if readings.dtype.kind == "f":
        return f"{where} holds floating-point numbers without a unit; set {option}: 1 for metres, 0.001 for millimetres"
    median = float(np.median(readings))
    return (
        f"{option} must be given, the metres of a stored 1: the median reading of {where} is {median:g}, which is "
        f"{median * 0.001:g} m with scale_m: 0.001 (millimetres) and {median * 0.0002:g} m with scale_m: 0.0002 "
        "(1/5000 m, as in the TUM data)"
    )
