"""Limits of half precision on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipelines.config import ConfigError


@contextmanager
def refuse_unset_gradients(module: nn.Module) -> Iterator[None]:
    """Refuses, during a forward pass, a convolution whose bf16 gradient oneDNN reads from uninitialised memory.

    With torch 2.14 on a CPU, this is any strided kernel of width 3 or more on a map one pixel wide.

    Raises:
        ConfigError: names the layer.
    """
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: _refuse(name, inputs))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.stride[-1] > 1 and layer.kernel_size[-1] > 1
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _refuse(name: str, inputs: tuple[Any, ...]) -> None:
    if inputs[0].shape[-1] == 1 and inputs[0].device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        raise ConfigError([
            f"train.mixed_precision must be no here: {name} strides over a map one pixel wide, and its gradient "
            "is wrong in bf16 on a CPU; or use larger pictures or fewer stages"
        ])  # fmt: skip
