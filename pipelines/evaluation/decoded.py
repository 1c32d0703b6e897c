"""Decoded signals of a data set, kept in memory where it is small."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crossmodal.data.shards import Shards
from crossmodal.data.views import View

HELD = 1 << 27  # numbers of a data set that are kept in memory: 512 MiB of float32


class Decoded:
    """Decoded signals of a view, each read once as long as `HELD` numbers hold them."""

    def __init__(self, shards: Shards, view: View) -> None:
        self.shards, self.view = shards, view
        self.member = shards.member(view.modality.field)
        self.found: dict[int, Tensor] = {}
        self.room = HELD

    def __getitem__(self, index: int) -> Tensor:
        if index in self.found:
            return self.found[index]
        signal = self.view.modality.decode(self.shards.read(index, [self.member])[1][self.member])
        if signal.numel() <= self.room:
            self.found[index] = signal
            self.room -= signal.numel()
        return signal


@dataclass(frozen=True)
class Chosen(Sequence[Tensor]):
    """Some of the decoded signals, read when they are asked for."""

    signals: Decoded
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: Any) -> Any:
        return self.signals[self.indices[position]]
