"""What half precision does not do on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipelines.config import ConfigError


@contextmanager
def refuse_unset_gradients(module: nn.Module) -> Iterator[None]:
    """While a batch passes: refuses a convolution whose bf16 gradient oneDNN would take from unset memory on a CPU.

    In torch 2.14 it is the gradient of a kernel of 3 or more, with a stride, by a map one pixel wide.

    Raises:
        ConfigError: there is one; the message names it.
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
            f"train.mixed_precision must be no here: {name} strides over a map one pixel wide, and the gradient of "
            "that is wrong in bf16 on a CPU; or take larger pictures or fewer stages"
        ])  # fmt: skip
