"""What a name of published weights stands for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from crossmodal.data.manifest import sha256_of
from crossmodal.encoders import Published


@dataclass(frozen=True)
class Source:
    """A published network whose files are on this machine."""

    name: str  # as in the config
    encoder: str  # entry of the catalogue of encoders
    options: Mapping[str, Any]  # of the encoder
    path: Path  # file of weights
    beside: tuple[Path, ...] = ()  # files that decide architecture or input, as config.json
    revision: str | None = None  # commit in the hub's cache; None: the file has none
    licence: str | None = None  # as its publisher states it; None: not stated
    published: Published | None = None  # the input that it was trained with; None: not stated

    @property
    def sha256(self) -> str:
        """The sum of the file of weights."""
        return _sum_of(self.path, self.path.stat().st_size, self.path.stat().st_mtime_ns)

    @property
    def digest(self) -> str:
        """A hash of all that decides the features: the sum of the weights, or one over the files beside them too."""
        if not self.beside:
            return self.sha256
        sums = [self.sha256, *(sha256_of(path) for path in self.beside)]
        return hashlib.sha256(" ".join(sums).encode()).hexdigest()


@lru_cache(maxsize=16)
def _sum_of(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)
