"""Maps of classes as PNG files that hold 0 for no label and classes from 1 (the modality `labels` with `ignore=0`)."""

import numpy as np
from jaxtyping import Integer, UInt8, UInt16

from crossmodal.sources import SourceError
from modalities.codecs.raster import write_pixels


def encode_map(
    stored: Integer[np.ndarray, "height width"],
    classes: UInt8[np.ndarray, " values"] | UInt16[np.ndarray, " values"],
) -> bytes:
    """A PNG of 8 or 16 bits with `classes[value]` for each value of a map.

    Raises:
        SourceError: a value is outside `classes`.
    """
    if stored.min() < 0 or stored.max() >= len(classes):
        raise SourceError(f"labels must be from 0 to {len(classes) - 1}, got {stored.min()} to {stored.max()}")
    return write_pixels(classes[stored], "PNG")
