"""Pretraining: encoders that learn from several crops of a sample, several modalities, or both."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from crossmodal.encoders import Encoder
from crossmodal.modules.base import Losses, TrainingModule
from crossmodal.modules.collapse import watch
from crossmodal.modules.gradient_cache import GradientAccumulator, go_local, is_batch_norm, refuse_norms
from crossmodal.multiview import Multiview, Pairings, Views, answering
from crossmodal.objectives import Batch, Outcome


def name_crop(view: str, crop: int) -> str:
    """The name of the view that is crop number `crop` of a view."""
    return f"{view}.{crop}"


def find_pairings(
    encoders: list[str], crops: int, *, graph: Literal["full", "across", "core"], core: str | None, symmetric: bool
) -> Pairings:
    """The views to compare, as (anchor, candidate); views are numbered encoder by encoder, crop by crop.

    Args:
        encoders: by name.
        crops: number of crops of a sample, for each encoder.
        graph: full: all views; across: views of different encoders (CMC's full graph, with one crop); core: views of
            `core` with those of others (CMC's core view).
        core: the encoder in the centre of the graph `core`.
        symmetric: both of two views are anchors; otherwise only the first, as in MoCo v2.

    Raises:
        ValueError: several views have no pairing, or `core` is not one of the encoders where the graph needs it.
    """
    if (graph == "core") != (core is not None) or (core is not None and core not in encoders):
        raise ValueError(f"core must be one of the encoders, {', '.join(encoders)}, with graph: core and only then, "
                         f"got graph: {graph} and core: {core}")  # fmt: skip
    owner = [encoder for encoder in encoders for _ in range(crops)]
    pairings = tuple(
        (one, other)
        for one, other in permutations(range(len(owner)), 2)
        if (symmetric or one < other)
        and (graph == "full" or owner[one] != owner[other])
        and (graph != "core" or core in (owner[one], owner[other]))
    )
    if not pairings and len(owner) > 1:
        raise ValueError("no two views are compared; set graph: full, or use two encoders")
    return pairings


@dataclass(frozen=True)
class Branch:
    """An encoder, its input view, and its projection head."""

    encoder: Encoder
    view: str
    head: nn.Module


class Pretraining(TrainingModule):
    """Encoders, heads and multiview objectives; all crops of an encoder pass it as one batch.

    With `momentum`, keys come from momentum encoders and heads, which follow these slowly; a `predictor`, if given,
    follows the head of the queries (MoCo v3). Each side embeds only the views it needs. With `chunk`, gradients are
    cached: encoders see that many pairs at a time and the objectives the whole batch. If fewer than two pairs have a
    view, batch norm uses its running statistics and does not update them.

    Raises:
        ValueError: an option is out of range or contradicts another, an encoder would learn nothing, or `chunk` is
            combined with batch normalisation.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        objectives: Mapping[str, Multiview],
        weights: Mapping[str, float],
        *,
        crops: int,
        pairings: Pairings,
        momentum: float | None = None,
        predictors: Mapping[str, nn.Module] | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(objectives, weights)
        if (chunk is not None and chunk < 1) or not 0 <= (momentum or 0) < 1:
            raise ValueError(f"chunk must be at least 1 and momentum from 0 to below 1, got {chunk} and {momentum}")
        if predictors and (momentum is None or not predictors.keys() <= branches.keys()):
            raise ValueError(f"predictors belong to encoders with momentum, got {', '.join(predictors)} with momentum "
                             f"{momentum} for {', '.join(branches)}")  # fmt: skip
        self.seen = {
            name: {place * crops + crop: name_crop(branch.view, crop) for crop in range(crops)}
            for place, (name, branch) in enumerate(branches.items())
        }  # by number
        self.encoders = nn.ModuleDict({name: branch.encoder for name, branch in branches.items()})
        self.heads = nn.ModuleDict({name: branch.head for name, branch in branches.items()})
        self.predictors = nn.ModuleDict(predictors or {})
        self.slow = nn.ModuleDict()
        if momentum is not None:
            self.slow = nn.ModuleDict({"encoders": self.encoders, "heads": self.heads})
            self.slow = copy.deepcopy(self.slow).requires_grad_(False)
        self.pairings, self.momentum, self.chunk = pairings, momentum, chunk
        every = {number for views in self.seen.values() for number in views}
        self.asking = every if momentum is None else {anchor for anchor, _ in pairings}
        self.answering = every if any(each.reads_every_key for each in objectives.values()) else {*answering(pairings)}
        for name, views in self.seen.items():
            if self.asking.isdisjoint(views):
                raise ValueError(f"encoder {name} would learn nothing: with momentum only anchors do, and none of its "
                                 "crops is one; set symmetric: true")  # fmt: skip
        if chunk is not None:
            refuse_norms(self)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The encoders, by name."""
        return dict(self.encoders.items())

    def forward(self, batch: Batch) -> Losses:
        """The objectives' losses over all views; no objective's state changes."""

        def judge(queries: Tensor) -> Losses:
            return self._compare(queries, queries if self.momentum is None else self._slow_keys(batch), batch)

        count = len(batch.index)
        if self.chunk is None or not torch.is_grad_enabled():
            return judge(self._embed(batch, slice(0, count)))
        return self.by_chunks(lambda piece: self._embed(batch, piece), judge, count, self.chunk)

    def remember(self, losses: list[Losses]) -> None:
        """Hands objectives their memos and moves the momentum encoders, which keep their own running statistics."""
        super().remember(losses)
        if self.momentum is not None:
            quick = [*self.encoders.parameters(), *self.heads.parameters()]
            with torch.no_grad():
                for slow, now in zip(self.slow.parameters(), quick, strict=True):
                    slow.lerp_(now, 1 - self.momentum)

    def _embed(self, batch: Batch, piece: slice, *, slow: bool = False) -> Float[Tensor, "batch views dim"]:
        """Unit vectors of some pairs, for all views in order; zeros for views that are not compared."""
        encoders, heads = (self.slow["encoders"], self.slow["heads"]) if slow else (self.encoders, self.heads)
        wanted = self.answering if slow else self.asking
        vectors: dict[int, Tensor] = {}
        for name, views in self.seen.items():
            numbers = sorted(wanted & views.keys())
            if not numbers:
                continue
            crops = [batch.inputs[views[number]][piece] for number in numbers]
            present = _chosen(batch.present.get(views[numbers[0]]), piece)
            inputs = torch.cat(crops if present is None else [crop[present] for crop in crops])
            passed = [encoders[name], heads[name]]  # type: ignore[index]
            if name in self.predictors and not slow:
                passed.append(self.predictors[name])
            with nullcontext() if present is None or len(present) > 1 else _resting_norms(passed):
                unit = _unit_vectors(inputs, *passed).unflatten(0, (len(numbers), -1))
            if present is not None:
                unit = unit.new_zeros(len(numbers), len(crops[0]), unit.shape[2]).index_copy(1, present, unit)
            vectors |= dict(zip(numbers, unit, strict=True))
        none = torch.zeros_like(unit[0])
        return torch.stack([vectors.get(number, none) for views in self.seen.values() for number in views], 1)

    @torch.no_grad()
    def _slow_keys(self, batch: Batch) -> Float[Tensor, "batch views dim"]:
        step = self.chunk or len(batch.index)
        pieces = [slice(start, start + step) for start in range(0, len(batch.index), step)]
        return torch.cat([self._embed(batch, piece, slow=True) for piece in pieces])

    def _compare(self, queries: Tensor, keys: Tensor, batch: Batch) -> Losses:
        with torch.autocast(queries.device.type, enabled=False):
            ours = queries.transpose(0, 1)
            owners = [name for name, crops in self.seen.items() for _ in crops]
            named = [view for crops in self.seen.values() for view in crops.values()]
            present = torch.stack([batch.present[view] for view in named]) if batch.present else None
            views = Views(ours, ours if keys is queries else keys.transpose(0, 1), self.pairings, batch.index,
                          batch.label, present, batch.seed)  # fmt: skip
            outcomes = {name: self.objectives[name](views) for name in self.learners}
            return self.add_up(outcomes, **watch(views, owners))


class LocalPretraining(TrainingModule):
    """Local pretraining of one encoder: each `unit` of neighbouring stages has objectives of its own (LoCo).

    Objectives are named after their stage; the loss is their sum.

    Args:
        branch: encoder and view, and the heads of the stages from `unit` - 1 on, an `nn.ModuleList`.
        objectives: by name, one for each of these stages.
        weights: of the objectives, by name.
        crops: number of crops of a sample.
        pairings: the crops to compare.
        unit: stages that each loss trains: 2 as published, 1 for greedy InfoMax.

    Raises:
        ValueError: `check_stages` refuses the encoder, or there is not one head and one objective for each stage.
    """

    def __init__(
        self,
        branch: Branch,
        objectives: Mapping[str, list[Multiview]],
        weights: Mapping[str, float],
        *,
        crops: int,
        pairings: Pairings,
        unit: int = 2,
    ) -> None:
        named = {
            f"{name}.stage{unit + number}": objective
            for name, each in objectives.items()
            for number, objective in enumerate(each)
        }
        super().__init__(named, {name: weights[name.partition(".")[0]] for name in named})
        check_stages(branch.encoder, unit)
        self.encoder, self.heads, self.unit, self.pairings = branch.encoder, branch.head, unit, pairings
        units = len(branch.encoder.spec.maps) - unit + 1
        for name, each in {"heads": branch.head, **objectives}.items():
            if len(each) != units:  # type: ignore[arg-type]
                raise ValueError(f"{name} must be {units}, one for each stage from {unit} on, got {len(each)}")  # type: ignore[arg-type]
        self.seen = [name_crop(branch.view, crop) for crop in range(crops)]
        self.kinds = list(objectives)

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The encoder."""
        return {"encoder": self.encoder}

    def forward(self, batch: Batch) -> Losses:
        """The sum over units; gradients are computed here and handed out in the backward pass."""
        accumulator, outcomes, others = GradientAccumulator(self), {}, {}

        def judge(stage: int, picture: Tensor) -> Tensor:
            vectors = self.heads[stage - self.unit + 1](picture)  # type: ignore[index]
            vectors = F.normalize(vectors, dim=1).unflatten(0, (len(self.seen), -1))
            views = Views(vectors, vectors, self.pairings, batch.index, batch.label, seed=batch.seed)
            names = [f"{kind}.stage{stage + 1}" for kind in self.kinds]
            with torch.autocast(vectors.device.type, enabled=False):
                results: dict[str, Outcome] = {name: self.objectives[name.replace(".", "/")](views) for name in names}
            outcomes.update({name: replace(outcome, loss=outcome.loss.detach()) for name, outcome in results.items()})
            signs = watch(views, ["encoder"] * len(self.seen))
            others.update({f"{name}.stage{stage + 1}": value for name, value in signs.items()})
            return torch.stack([self.weights[name] * outcome.loss for name, outcome in results.items()]).sum()

        inputs = torch.cat([batch.inputs[view] for view in self.seen])
        losses = go_local(self.encoder, inputs, judge, unit=self.unit, accumulator=accumulator)
        return Losses(accumulator.hand_out(torch.stack(losses).sum()), outcomes, others)


def check_stages(encoder: Encoder, unit: int) -> None:
    """Refuses an encoder whose stages cannot be trained by units.

    Raises:
        ValueError: it has no separable stages, weights that no stage's loss reaches, or fewer stages than a unit.
    """
    if not encoder.leaves:
        raise ValueError(f"{type(encoder).__name__} cannot be split into stages; use convnet, resnet "
                         "or another of this project's encoders")  # fmt: skip
    if not encoder.ends_in_map:
        raise ValueError(f"{type(encoder).__name__} has weights between its last map and the embedding, which no "
                         "stage's loss would train; use another encoder")  # fmt: skip
    if not 1 <= unit <= len(encoder.spec.maps):
        raise ValueError(f"unit must be from 1 to the encoder's {len(encoder.spec.maps)} stages, got {unit}")


def _unit_vectors(seen: Tensor, encoder: nn.Module, *heads: nn.Module) -> Float[Tensor, "rows dim"]:
    embedding = encoder(seen).embedding
    with torch.autocast(embedding.device.type, enabled=False):
        vectors = embedding if embedding.dtype == torch.float64 else embedding.float()
        for head in heads:
            vectors = head(vectors)
        return F.normalize(vectors, dim=1)


def _chosen(present: Tensor | None, piece: slice) -> Tensor | None:
    """The rows of a piece that have the view (None: all), or the first, so that the encoder gets a gradient.

    The first row's gradient is 0, because absent views are not compared.
    """
    if present is None:
        return None
    rows = present[piece].nonzero()[:, 0]
    return rows if len(rows) else rows.new_zeros(1)


@contextmanager
def _resting_norms(modules: list[nn.Module]) -> Iterator[None]:
    """Makes batch norm use its running statistics without updating them."""
    norms = [part for module in modules for part in module.modules() if is_batch_norm(part) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
