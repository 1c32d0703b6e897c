"""Learning from few labels: which pairs are labelled, and training a whole encoder on them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from crossmodal.data.views import Crop
from crossmodal.encoders import Encoder
from modalities import Modality
from modalities.common.random import generator


@dataclass(frozen=True)
class Recipe:
    """How an encoder is trained on few labels; the same for every start it is compared from."""

    steps: int = 400  # at most, with all labels
    least_steps: int = 120  # with the fewest
    epochs: float = 60.0  # passes over the labelled pairs, within these bounds
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05

    def length(self, pairs: int) -> int:
        """Steps for a number of labelled pairs."""
        wanted = math.ceil(self.epochs * pairs / min(self.batch_size, pairs))
        return max(self.least_steps, min(self.steps, wanted))


def pick_labelled(labels: Int[Tensor, " pairs"], per_class: int | None, seed: int, draw: int = 0) -> list[int]:
    """Positions of `per_class` random pairs of every class, or all it has (all labelled pairs for None), in order.

    `draw` numbers the independent choices of a seed.
    """
    random = generator(seed, "labels", *([draw] if draw else []))
    chosen: list[int] = []
    for label in labels[labels >= 0].unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=random)]
        chosen += shuffled[:per_class].tolist()
    return sorted(chosen)


def train_on(
    encoder: Encoder,
    modality: Modality,
    signals: Sequence[Tensor],
    targets: Shaped[Tensor, "pairs *dims"],
    recipe: Recipe,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    crop: Crop,
    seed: int,
    device: torch.device | str = "cpu",
) -> None:
    """Trains a whole encoder with its classifier on labelled signals, in place; it ends in eval mode.

    `loss` takes logits and targets. AdamW, cosine schedule, random windows and the modality's augmentation. Order and
    draws depend on `seed` alone.
    """
    encoder.to(device).train()
    steps, size = recipe.length(len(signals)), min(recipe.batch_size, len(signals))
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    order = _order(len(signals), steps * size, seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * min(1.0, 10 * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = order[step * size : (step + 1) * size]
        adapted, draws = [], []
        for place, position in enumerate(chosen):
            random = generator(seed, "few", step, place)
            adapted.append(modality.adapt(signals[position], crop.draw(random)))
            draws.append(modality.draw(random))
        batch = modality.augment(torch.stack(adapted).to(device), torch.stack(draws).to(device))
        logits = encoder(modality.normalise(batch)).logits
        assert logits is not None
        optimiser.zero_grad()
        loss(logits, targets[chosen].to(device)).backward()
        optimiser.step()
    encoder.eval()


def _order(pairs: int, count: int, seed: int) -> list[int]:
    random = generator(seed, "few", "order")
    rounds = [torch.randperm(pairs, generator=random) for _ in range(math.ceil(count / pairs))]
    return torch.cat(rounds)[:count].tolist()
