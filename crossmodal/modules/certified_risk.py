"""The contrastive risk of a network on disjoint examples, by drawn weights or by their means."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from crossmodal.certificates.posterior import GaussianPosterior
from crossmodal.certificates.tuples import Tuples
from crossmodal.data.loader import load_in_order
from crossmodal.data.manifest import ShardError
from crossmodal.data.reader import SampleBatch, join, read_pair, to_batch
from crossmodal.data.shards import Shards
from crossmodal.data.views import Crop, View
from crossmodal.encoders import Features
from crossmodal.modules.certifying import ExampleViews
from modalities.common.random import generator

# Gives what a function makes of the numbers from 0 to a total, in order; processes may divide the numbers.
Spread = Callable[[int, Callable[[range], list[float]]], list[float]]
HELD = 1 << 27  # numbers of examples that are kept in memory between passes: 512 MiB of float32


class _Pieces(Dataset):
    """Examples piece by piece, pass after pass; with a look, every pass sees other windows."""

    def __init__(self, examples: "Examples", numbers: Sequence[int]) -> None:
        self.examples, self.numbers = examples, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> SampleBatch | ShardError:
        told = self.examples
        turn, piece = divmod(self.numbers[place], len(told.rows))
        try:
            return join([
                read_pair(told.shards, dict(told.views), index, crop=told.crop, address=(told.seed, turn))
                for index in told.rows[piece].flatten().tolist()
            ])  # fmt: skip
        except ShardError as error:
            return error


def alone(total: int, measure: Callable[[range], list[float]]) -> list[float]:
    """All numbers in this process."""
    return measure(range(total))


@dataclass(frozen=True)
class Examples:
    """Disjoint examples of a data set, in pieces of equal size, each judged by a draw of its own.

    Raises:
        ValueError: not one piece can be made.
        ShardError: a pair cannot be read.
    """

    shards: Shards
    views: Mapping[str, View]
    tuples: Tuples
    rows: Int[Tensor, "pieces at_once pairs"]
    crop: Crop | None = None
    seed: int = 0
    workers: int = 0

    @classmethod
    def plan(
        cls, shards: Shards, views: Mapping[str, View], tuples: Tuples, *, at_once: int, crop: Crop | None = None,
        seed: int = 0, workers: int = 0,
    ) -> "Examples":  # fmt: skip
        """Draw as many disjoint examples as the pairs allow; a last, incomplete piece is dropped."""
        rows = tuples.disjoint(shards.labels(), seed)
        pieces = len(rows) // at_once
        if not pieces:
            raise ValueError(f"{len(shards)} pairs make {len(rows)} examples of {tuples.pairs}, but {at_once} are "
                             "judged at once; lower certificate.at_once or tuples.negatives")  # fmt: skip
        rows = rows[: pieces * at_once].view(pieces, at_once, tuples.pairs)
        return cls(shards, views, tuples, rows, crop, seed, workers)

    @property
    def count(self) -> int:
        """m, the number of examples."""
        return self.rows.shape[0] * self.rows.shape[1]

    def risk(
        self,
        network: GaussianPosterior,
        branch: ExampleViews,
        *,
        device: torch.device,
        draws: int = 0,
        name: str = "",
        spread: Spread = alone,
    ) -> tuple[float, int]:
        """The mean certified loss, and the number of weights it was drawn with; of the mean weights with no draws.

        Every piece has a draw of its own, and every example counts equally, so that draws come in whole passes. The
        pieces of all passes have a number each; `spread` divides the numbers among processes.
        """
        total = max(1, -(-draws // len(self.rows))) * len(self.rows)

        @torch.no_grad()
        def measure(numbers: range) -> list[float]:
            found = []
            for number, part in zip(numbers, self._parts(numbers), strict=True):
                random = generator(self.seed, "draw", name, number)
                weights = network.draw(random) if draws else network.mean()
                crop: Callable[[Tensor], Features] = partial(network, weights=weights)
                batch = to_batch(part, dict(self.views), device)
                anchors, others = (rows.unflatten(0, self.rows.shape[1:]) for rows in branch.embed(crop, batch))
                found.append(self.tuples.certified(anchors, others).double().mean())
            return torch.stack(found).tolist() if found else []

        losses = torch.tensor(spread(total, measure), dtype=torch.float64, device=device)
        return losses.mean().item(), total if draws else 0

    def _parts(self, numbers: Sequence[int]) -> Iterator[SampleBatch]:
        pieces = [*dict.fromkeys(number % len(self.rows) for number in numbers)]
        size = sum(torch.Size(view.modality.shape).numel() for view in self.views.values())
        if self.crop is not None or len(pieces) * self.rows[0].numel() * size > HELD:
            yield from load_in_order(_Pieces(self, numbers), workers=self.workers)
            return
        loaded = load_in_order(_Pieces(self, pieces), workers=self.workers)
        kept = dict(zip(pieces, loaded, strict=True))
        yield from (kept[number % len(self.rows)] for number in numbers)
