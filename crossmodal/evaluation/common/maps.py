"""Maps of training pictures with their targets, and training on them."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.data.reader import sweep_parts
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.encoders import Encoder
from crossmodal.evaluation import Pairs
from crossmodal.evaluation.common.tasks import Task, mean_of
from modalities.common.random import generator

HELD = 1 << 27  # numbers of maps that are kept in memory: 256 MiB of float16
PICTURES = 32  # at a time, or fewer if their answers are more than `ANSWERS` numbers: 128 MiB of float32
ANSWERS = 1 << 25
FINER = 2  # targets are averaged over areas of this many to a side of the finest map's places
Result = TypeVar("Result")


@dataclass(frozen=True)
class Recipe:
    """How a decoder is trained."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Seen:
    """Maps of some pictures on the device, with the mean targets of areas and the shares that have one."""

    maps: list[Float[Tensor, "batch _ _ _"]]
    target: Float[Tensor, "batch outputs height width"]
    weight: Float[Tensor, "batch 1 height width"]


class Maps:
    """Maps of training pictures and their targets, in memory as long as `HELD` numbers hold them; else recomputed."""

    def __init__(self, encoder: Encoder, view: View, stages: list[int], task: Task, pairs: Pairs) -> None:
        self.encoder, self.view, self.stages, self.task, self.pairs = encoder, view, stages, task, pairs
        self.held: dict[int, list[Tensor]] = {}  # index -> maps, target, weight
        self.sizes = [encoder.spec.maps[stage] for stage in stages]
        sides, finest = task.view.modality.shape[1:], max((size[1:] for size in self.sizes), key=math.prod)
        self.batch = batch_of(task)
        self.areas = min(FINER * finest[0], sides[0]), min(FINER * finest[1], sides[1])

    def hold(self, indices: list[int]) -> None:
        """Computes what is read of these pictures, as many as fit."""
        numbers = sum(map(math.prod, self.sizes)) + (self.task.outputs + 1) * math.prod(self.areas)
        for index, rows in self._sweep(indices[: HELD // numbers], self.pairs.workers):
            self.held[index] = [_halved(row) for row in rows]

    @torch.inference_mode()
    def _sweep(self, indices: list[int], workers: int) -> Iterator[tuple[int, list[Tensor]]]:
        """The maps, target and weight of pictures, on the CPU."""
        views, device = {"v": self.view, "t": self.task.view}, self.pairs.device
        for part in sweep_parts(self.pairs.train, views, batch_size=self.batch, workers=workers, indices=indices):
            maps = self.forward(self.encoder, self.view.modality.normalise(part.adapted["v"].to(device)))
            found = [*maps, *self.targets(self.task.prepare(part.adapted["t"]))]
            for row, index in enumerate(part.index.tolist()):
                yield index, [each[row].float().cpu() for each in found]

    def forward(self, encoder: Encoder, inputs: Tensor) -> list[Tensor]:
        """The maps that are used, of a normalised batch."""
        features = encoder.to(inputs.device)(inputs)
        return [features.maps[stage].float() for stage in self.stages]

    def targets(self, truth: Float[Tensor, "batch _ height width"]) -> tuple[Tensor, Tensor]:
        """The mean targets and weights of areas."""
        target, weight = (F.adaptive_avg_pool2d(each, self.areas) for each in self.task.targets(truth))
        return target, weight

    def loss(self, answer: Tensor, target: Tensor, weight: Tensor) -> Float[Tensor, ""]:
        """The loss of a decoder's answer."""
        return self.task.loss(F.interpolate(answer, self.areas, mode="bilinear"), target, weight)

    def mean_target(self, indices: Sequence[int]) -> Float[Tensor, " outputs"]:
        """The mean target of all places of some pictures that have one, on the CPU."""
        total, weight = torch.zeros(self.task.outputs, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for piece in pieces(indices, self.batch):
            seen = self.read(piece)
            total += seen.target.double().sum((0, 2, 3)).cpu()
            weight += seen.weight.double().sum().cpu()
        return mean_of(total, weight).float()

    def read(self, indices: Sequence[int]) -> Seen:
        """Some of the pictures."""
        absent = [index for index in dict.fromkeys(indices) if index not in self.held]
        there = self.held | dict(self._sweep(absent, 0)) if absent else self.held
        rows = zip(*(there[index] for index in indices), strict=True)
        *maps, target, weight = (torch.stack([item.float() for item in each]).to(self.pairs.device) for each in rows)
        return Seen(maps, target, weight)


def batch_of(task: Task) -> int:
    """Pictures at a time."""
    return max(1, min(PICTURES, ANSWERS // (task.outputs * math.prod(task.view.modality.shape[1:]))))


class Signals:
    """The decoded signals of both views of some training pairs, each read once."""

    def __init__(self, shards: Shards, view: View, truth: View) -> None:
        self.shards, self.modalities, self.found = shards, (view.modality, truth.modality), dict[int, list[Tensor]]()
        self.members = [shards.member(modality.field) for modality in self.modalities]

    def __getitem__(self, index: int) -> list[Tensor]:
        if index not in self.found:
            _, payloads = self.shards.read(index, [*dict.fromkeys(self.members)])
            signals = [
                modality.decode(payloads[member])
                for modality, member in zip(self.modalities, self.members, strict=True)
            ]
            if sum(signal.numel() for each in self.found.values() for signal in each) > HELD:
                return signals
            self.found[index] = signals
        return self.found[index]


def descend(
    modules: Sequence[nn.Module],
    recipe: Recipe,
    indices: Sequence[int],
    loss: Callable[[int, list[int]], Tensor],
    draw: int,
) -> None:
    """Trains modules by AdamW with a cosine schedule; `loss` is of a step and its pictures.

    The order of the pictures depends on `draw` alone.
    """
    weights = [weight for module in modules for weight in module.parameters()]
    size = min(recipe.batch_size, len(indices))
    order = _order(indices, recipe.steps * size, draw)
    optimiser = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    for step in range(recipe.steps):
        rising, cosine = 10 * (step + 1) / recipe.steps, (1 + math.cos(math.pi * step / recipe.steps)) / 2
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * min(1.0, rising) * cosine
        optimiser.zero_grad()
        loss(step, order[step * size : (step + 1) * size]).backward()
        optimiser.step()


def _order(indices: Sequence[int], count: int, draw: int) -> list[int]:
    random = generator(draw, "dense", "order")
    rounds = [torch.randperm(len(indices), generator=random) for _ in range(math.ceil(count / len(indices)))]
    return [indices[place] for place in torch.cat(rounds)[:count].tolist()]


def choose(shards: Shards, indices: Sequence[int], count: int | None, draw: int) -> list[int]:
    """`count` random pairs, or all, in random order; they depend on the pairs' keys and `draw` alone.

    A smaller choice is part of a larger one.
    """

    def address(index: int) -> bytes:
        key = shards.locate(index)[1].key
        return hashlib.blake2b(repr((draw, "pictures", key)).encode(), digest_size=8).digest()

    return sorted(indices, key=address)[:count]


def seeded(seed: int, work: Callable[[], Result]) -> Result:
    """The result of some work whose global random numbers depend on `seed` alone; the global state is restored."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return work()


def pieces(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The indices in pieces of at most `size`."""
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _halved(row: Tensor) -> Tensor:
    """In float16 where that holds the numbers."""
    half = row.half()
    return half if half.isfinite().all() else row
