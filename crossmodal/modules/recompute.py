"""Activation checkpointing: blocks whose activations are computed again in the backward pass instead of stored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from crossmodal.encoders import Encoder


def recompute_blocks(encoder: Encoder) -> None:
    """Makes every block of an encoder keep its input only. Gradients and running statistics do not change.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174, by `torch.utils.checkpoint` without reentrance.

    Raises:
        ValueError: the encoder has no blocks.
    """
    if not encoder.blocks:
        raise ValueError(f"{type(encoder).__name__} has no blocks whose activations could be computed again; leave it "
                         "out, or use another encoder, such as timm, transformers or cifar_resnet")  # fmt: skip
    for block in encoder.blocks:
        if "forward" not in vars(block):  # an earlier phase may have trained the encoder
            block.forward = partial(_run, block, block.forward)


def _run(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    norms = [(part, part.training) for part in block.modules() if isinstance(part, _BatchNorm)]
    return checkpoint(
        forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _as_before(norms)), **options
    )


@contextmanager
def _as_before(norms: list[tuple[_BatchNorm, bool]]) -> Iterator[None]:
    """Gives batch norms the mode of the first time; a batch counts once in their running statistics."""
    now = [(norm, norm.training, dict(norm._buffers)) for norm, _ in norms]
    try:
        for norm, was_training in norms:
            norm.training = was_training
            norm._buffers.update({name: item if item is None else item.clone() for name, item in norm._buffers.items()})
        yield
    finally:
        for norm, training, buffers in now:
            norm.training = training
            norm._buffers.update(buffers)
