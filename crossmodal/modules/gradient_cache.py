"""Gradients that are computed piece by piece in the forward pass and handed out in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal.encoders import Encoder


class GradientAccumulator:
    """Sums of gradients, one for each trainable parameter."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.sums: list[Tensor | None] = [None] * len(self.parameters)

    def pull(
        self, outputs: Sequence[Tensor], slopes: Sequence[Tensor | None], *, also: Sequence[Tensor] = (), keep: bool
    ) -> list[Tensor | None]:
        """Adds the parameters' gradients from the outputs' slopes; returns those of `also`. `keep`: keep the graph."""
        with torch.autocast(outputs[0].device.type, enabled=False):  # float32 layers must not go backward in half
            gradients = torch.autograd.grad(
                outputs, [*self.parameters, *also], slopes, retain_graph=keep, allow_unused=True
            )
        for number, gradient in enumerate(gradients[: len(self.parameters)]):
            if gradient is not None:
                before = self.sums[number]
                self.sums[number] = gradient if before is None else before + gradient
        return list(gradients[len(self.parameters) :])

    def hand_out(self, loss: Tensor) -> Tensor:
        """The loss; its backward gives every parameter its sum at once, so ranks synchronise only once."""
        return _HandOut.apply(loss.detach(), self.sums, *self.parameters)


class _HandOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, sums: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.sums = sums
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        sums, ctx.sums = ctx.sums, None  # a step of several micro-batches keeps its losses
        return None, None, *(None if gradient is None else gradient * slope for gradient in sums)


def go_local(
    encoder: Encoder,
    batch: Tensor,
    judge: Callable[[int, Tensor], Tensor],
    *,
    unit: int,
    accumulator: GradientAccumulator,
) -> list[Tensor]:
    """One forward pass in which each stage's loss trains that stage and the `unit` - 1 stages before it, and no other.

    Stages of several units get the sum of their gradients. A stage's graph is freed as soon as its last unit is done,
    so at most `unit` graphs are held. `unit` 1 is greedy InfoMax; as many as there are stages is end-to-end training.
    Without gradients, only the losses are computed.

    Args:
        encoder: an encoder that calls `leave`.
        batch: its input.
        judge: the loss on the map of a stage, by the stage's number; called for stages from `unit` - 1 on.
        unit: number of stages that each loss trains.
        accumulator: of a module that holds the encoder and all that `judge` uses.

    Returns:
        The losses, of the first unit first.

    Source: Xiong, Ren, Urtasun 2020, https://arxiv.org/abs/2008.01342, section 3.
    """
    pending: list[tuple[Tensor | None, Tensor]] = []  # inputs and outputs of the last stages; their graphs are separate
    entered: Tensor | None = None
    losses: list[Tensor] = []
    units = len(encoder.spec.maps) - unit + 1

    def leave(picture: Tensor) -> Tensor:
        nonlocal entered
        pending.append((entered, picture))
        entered = picture.detach().requires_grad_()
        if len(pending) == unit:
            left = picture.detach().requires_grad_()
            loss = judge(unit - 1 + len(losses), left)
            losses.append(loss.detach())
            if torch.is_grad_enabled():
                slope = accumulator.pull([loss], [None], also=[left], keep=False)
                for entry, left in reversed(pending[1:]):
                    assert entry is not None
                    slope = accumulator.pull([left], slope, also=[entry], keep=len(losses) < units)
                accumulator.pull([pending[0][1]], slope, keep=False)
            pending.pop(0)
        return entered

    encoder(batch, leave)
    return losses


def go_cached(
    embed: Callable[[slice], Tensor],
    judge: Callable[[Tensor], Tensor],
    rows: int,
    *,
    chunk: int,
    accumulator: GradientAccumulator,
) -> Tensor:
    """Gradient caching: the loss of a whole batch whose encoders see `chunk` rows at a time.

    Rows are embedded without gradient; the loss gives the slope of every embedding; then each chunk is embedded again,
    with the same random numbers, to backpropagate its slopes. This equals the whole batch if rows are independent, so
    not with batch norm in training mode.

    Args:
        embed: some rows' embeddings, rows first.
        judge: the loss on the embeddings of all rows.
        rows: number of rows in the batch.
        chunk: rows per forward pass.
        accumulator: of a module that holds all that `embed` and `judge` use.

    Source: Gao et al. 2021, https://arxiv.org/abs/2101.06983, section 3.2.
    """
    pieces = [slice(start, min(start + chunk, rows)) for start in range(0, rows, chunk)]
    states, embeddings = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_random_state())
            embeddings.append(embed(piece))
    whole = torch.cat(embeddings).requires_grad_()
    loss = judge(whole)
    (slopes,) = accumulator.pull([loss], [None], also=[whole], keep=False)
    assert slopes is not None
    after = _random_state()
    for piece, state in zip(pieces, states, strict=True):
        _set_random_state(state)
        accumulator.pull([embed(piece)], [slopes[piece]], keep=False)
    _set_random_state(after)
    return loss


def is_batch_norm(module: nn.Module) -> bool:
    """True if the module makes the rows of a batch depend on one another."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def refuse_norms(module: nn.Module) -> None:
    """Refuses a module in which the rows of a batch depend on one another.

    Raises:
        ValueError: it has batch normalisation; the message names the first.
    """
    for name, part in module.named_modules():
        if is_batch_norm(part):
            raise ValueError(f"chunk needs rows that do not depend on one another, but {name} is batch normalisation; "
                             "set norm: group, or use another encoder")  # fmt: skip


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
