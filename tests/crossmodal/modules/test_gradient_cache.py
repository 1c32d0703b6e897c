"""Gradients computed in the forward pass against ordinary autograd, in float64: by stages, and by chunks."""

import copy
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from crossmodal import ENCODERS
from crossmodal.encoders import Encoder
from crossmodal.modules.gradient_cache import GradientAccumulator, go_cached, go_local
from crossmodal.modules.projector import MapProjector
from modalities.common.random import generator

ROWS = 6
NETWORKS = {  # with the prefixes of the weights of each stage
    "convnet": ({"width": 4}, [["stem.", "stages.0."], ["stages.1."], ["stages.2."], ["stages.3."]]),
    "cifar_resnet": ({"depth": 8}, [["conv1.", "bn1.", "layer1."], ["layer2."], ["layer3."]]),
}
UNITS = [(name, unit) for name, (_, stages) in NETWORKS.items() for unit in range(1, len(stages) + 1)]
Gradients = dict[str, Tensor]


def draw(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator("gradients", name))


def build(name: str, **options: object) -> nn.ModuleDict:
    """An encoder and a head for each stage."""
    torch.manual_seed(0)
    encoder = ENCODERS.get(name)((1, 16, 16), 0, **NETWORKS[name][0], **options)
    heads = [MapProjector(shape, block=True, layers=2, hidden=5, dim=3, norm=False) for shape in encoder.spec.maps]
    return nn.ModuleDict({"encoder": encoder, "heads": nn.ModuleList(heads)}).double()


def judge_by(module: nn.ModuleDict) -> Callable[[int, Tensor], Tensor]:
    """A loss in which the rows of a batch depend on one another."""
    return lambda stage, picture: (stage + 1) * module["heads"][stage](picture).softmax(0).square().mean()


def gradients(module: nn.Module) -> Gradients:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def go(module: nn.ModuleDict, unit: int, judge: Callable[[int, Tensor], Tensor] | None = None) -> list[Tensor]:
    """A step by units; the gradients are the weights' own."""
    accumulator = GradientAccumulator(module)
    losses = go_local(module["encoder"], draw("batch", ROWS, 1, 16, 16), judge or judge_by(module), unit=unit,
                      accumulator=accumulator)  # fmt: skip
    accumulator.hand_out(torch.stack(losses).sum()).backward()
    return losses


def unit_alone(module: nn.ModuleDict, first: int, unit: int) -> Tensor:
    """The loss of one unit by a forward of its own, whose input is detached."""
    left: list[Tensor] = []

    def leave(picture: Tensor) -> Tensor:
        left.append(picture)
        return picture.detach() if len(left) == first else picture

    module["encoder"](draw("batch", ROWS, 1, 16, 16), leave)
    return judge_by(module)(first + unit - 1, left[first + unit - 1])


def assert_equal(ours: Gradients, theirs: Gradients) -> None:
    assert theirs and ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


# --- by stages ---


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loss_reaches_the_two_stages_below_it_and_nothing_else(name: str) -> None:
    stages = NETWORKS[name][1]
    for chosen in range(1, len(stages)):
        module = build(name)
        judge = judge_by(module)
        go(module, 2, lambda stage, picture, c=chosen, j=judge: j(stage, picture) * (stage == c))
        found = gradients(module["encoder"].trunk)
        reached = [any(found[key].any() for key in found if key.startswith(tuple(prefixes))) for prefixes in stages]
        assert reached == [stage in (chosen - 1, chosen) for stage in range(len(stages))]


@pytest.mark.parametrize(("name", "unit"), UNITS)
def test_gradients_are_the_sums_of_those_of_the_units_alone(name: str, unit: int) -> None:
    ours, theirs = build(name), build(name)
    losses = go(ours, unit)
    alone = [unit_alone(theirs, first, unit) for first in range(len(NETWORKS[name][1]) - unit + 1)]
    for loss in alone:
        loss.backward()
    torch.testing.assert_close(torch.stack(losses), torch.stack(alone))
    assert_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("name", NETWORKS)
def test_units_of_one_stage_are_greedy(name: str) -> None:
    ours, theirs = build(name), build(name)
    go(ours, 1)
    maps = theirs["encoder"](draw("batch", ROWS, 1, 16, 16), lambda picture: picture.detach()).maps
    torch.stack([judge_by(theirs)(stage, item) for stage, item in enumerate(maps)]).sum().backward()
    assert_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_unit_of_all_stages_is_end_to_end(name: str) -> None:
    ours, theirs = build(name), build(name)
    last = len(NETWORKS[name][1]) - 1
    go(ours, last + 1)
    judge_by(theirs)(last, theirs["encoder"](draw("batch", ROWS, 1, 16, 16)).maps[last]).backward()
    assert_equal(gradients(ours), gradients(theirs))


@pytest.mark.parametrize(("name", "unit"), UNITS)
def test_running_statistics_see_a_batch_once(name: str, unit: int) -> None:
    ours, theirs = build(name)["encoder"], build(name)["encoder"]
    module = build(name)
    module["encoder"] = ours
    go(module, unit)
    theirs(draw("batch", ROWS, 1, 16, 16))
    assert dict(theirs.named_buffers())
    for (key, mine), (_, other) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.equal(mine, other), key


def test_steps_accumulate_and_take_the_loss_s_factor() -> None:
    once, twice = build("convnet"), build("convnet")
    go(once, 2)
    for factor in (0.5, 0.25):
        accumulator = GradientAccumulator(twice)
        losses = go_local(
            twice["encoder"], draw("batch", ROWS, 1, 16, 16), judge_by(twice), unit=2, accumulator=accumulator
        )
        (accumulator.hand_out(torch.stack(losses).sum()) * factor).backward()
    assert_equal(gradients(twice), {name: 0.75 * gradient for name, gradient in gradients(once).items()})


def test_what_was_handed_out_is_let_go_though_the_loss_is_kept() -> None:
    module = build("convnet")
    accumulator = GradientAccumulator(module)
    losses = go_local(
        module["encoder"], draw("batch", ROWS, 1, 16, 16), judge_by(module), unit=2, accumulator=accumulator
    )
    total = accumulator.hand_out(torch.stack(losses).sum())
    held = [weakref.ref(each) for each in accumulator.sums if each is not None]
    del accumulator
    total.backward()
    assert held and not any(each() is not None for each in held)


def test_without_gradient_there_are_losses_alone() -> None:
    module = build("convnet")
    with torch.no_grad():
        losses = go_local(module["encoder"], draw("batch", ROWS, 1, 16, 16), judge_by(module), unit=2,
                          accumulator=GradientAccumulator(module))  # fmt: skip
    torch.testing.assert_close(torch.stack(losses), torch.stack(go(module, 2)))


class Held:
    """Bytes that graphs hold, weights not counted, and the most so far; a tensor held twice counts once."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
        self.holders: dict[int, int] = {}
        self.bytes = self.most = 0

    def watch(self) -> AbstractContextManager[None]:
        """A stretch in which graphs are built."""
        return torch.autograd.graph.saved_tensors_hooks(self._hold, lambda held: held[0])

    def _hold(self, tensor: Tensor) -> "_HeldTensor":
        storage = tensor.untyped_storage()
        held = _HeldTensor([tensor])
        if storage.data_ptr() not in self.weights:
            self._count(storage.data_ptr(), storage.nbytes(), 1)
            weakref.finalize(held, self._count, storage.data_ptr(), storage.nbytes(), -1)
        return held

    def _count(self, key: int, size: int, change: int) -> None:
        before = self.holders.get(key, 0)
        self.holders[key] = before + change
        self.bytes += size * ((before + change > 0) - (before > 0))
        self.most = max(self.most, self.bytes)


class _HeldTensor(list[Tensor]):
    """A list can be referred to weakly only as a class of ours."""


def bytes_of(encoder: Encoder, batch: Tensor, first: int, unit: int) -> int:
    """What the graph of some neighbouring stages holds, when there is no other."""
    held, left = Held(encoder), 0

    def leave(picture: Tensor) -> Tensor:
        nonlocal left
        left += 1
        torch.set_grad_enabled(first <= left < first + unit)
        return picture

    with held.watch(), torch.set_grad_enabled(first == 0):
        features = encoder(batch, leave)
    assert features.maps[first].requires_grad
    return held.bytes


@pytest.mark.parametrize(("name", "unit"), UNITS)
def test_no_more_is_held_than_the_largest_unit(name: str, unit: int) -> None:
    module, batch = build(name), draw("batch", ROWS, 1, 16, 16)
    stages = len(NETWORKS[name][1])
    units = [bytes_of(module["encoder"], batch, first, unit) for first in range(stages - unit + 1)]
    held = Held(module)
    with held.watch():
        go_local(
            module["encoder"],
            batch,
            lambda stage, picture: picture.mean(),
            unit=unit,
            accumulator=GradientAccumulator(module),
        )
    assert held.most == max(units) and held.bytes == 0
    assert unit == stages or held.most < 0.95 * bytes_of(module["encoder"], batch, 0, stages)


# --- by chunks ---


class Noisy(nn.Module):
    """A layer with random factors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4, dtype=torch.float64)

    def forward(self, rows: Tensor) -> Tensor:
        """Other factors at each call."""
        return self.layer(rows) * torch.rand(len(rows), 4, dtype=torch.float64)


def spread(rows: Tensor) -> Tensor:
    return (rows @ rows.T * torch.rand(len(rows), dtype=torch.float64)).logsumexp(1).mean()


@pytest.mark.parametrize("chunk", [1, 4, 10, 100])
def test_chunks_draw_the_same_numbers_again(chunk: int) -> None:
    torch.manual_seed(0)
    module, rows = Noisy(), draw("rows", 10, 3)
    other, accumulator = copy.deepcopy(module), GradientAccumulator(module)
    torch.manual_seed(1)
    loss = go_cached(lambda piece: module(rows[piece]), spread, 10, chunk=chunk, accumulator=accumulator)
    accumulator.hand_out(loss).backward()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    expected = spread(torch.cat([other(piece) for piece in rows.split(chunk)]))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert_equal(gradients(module), gradients(other))
    assert torch.equal(torch.rand(1), drawn)


def test_no_more_is_held_than_the_largest_chunk() -> None:
    encoder, batch = build("convnet", norm="group")["encoder"], draw("batch", 12, 1, 16, 16)
    held = Held(encoder)
    with held.watch():
        go_cached(lambda piece: encoder(batch[piece]).embedding, lambda rows: rows.mean(), 12, chunk=5,
                  accumulator=GradientAccumulator(encoder))  # fmt: skip
    assert held.most == bytes_of(encoder, batch[:5], 0, 4) and held.bytes == 0


def test_layers_in_float32_go_backward_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    layer, rows = nn.Linear(30, 30), draw("float32", 20, 30).float()
    other, accumulator = copy.deepcopy(layer), GradientAccumulator(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            loss = layer(rows).square().sum()
        accumulator.pull([loss], [None], keep=False)
    accumulator.hand_out(loss).backward()
    other(rows).square().sum().backward()
    assert_equal(gradients(layer), gradients(other))
