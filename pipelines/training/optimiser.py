"""Learning rate, optimiser and averaged weights, from a config."""

import math
from typing import Any

import torch
from torch import nn

from pipelines.schemas.common import TrainConfig
from pipelines.training.sharding import alike


def rate(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate's factor at a step, from 0 to 1."""
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / max(steps - warm, 1)
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if config.schedule == "step":
        return config.gamma ** sum(step >= milestone * steps for milestone in config.milestones)
    return 1.0


def build_optimiser(module: nn.Module, config: TrainConfig, *, is_sharded: bool = False) -> torch.optim.Optimizer:
    """The optimiser; weight decay applies to biases and norms only with `decay_all`. Torch cannot fuse sharded SGD."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    small = config.weight_decay if config.decay_all else 0.0
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": small},
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, fused=not is_sharded)
    return torch.optim.AdamW(groups, lr=config.rate, fused=True)


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser's state, which is stored in the order of the weights.

    Raises:
        ValueError: it belongs to other weights; fused optimisers would write out of bounds.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    held = {
        number: {
            name: alike(tensor, weights[number]) if tensor.ndim and number < len(weights) else tensor
            for name, tensor in tensors.items()
        }
        for number, tensors in state["state"].items()
    }
    # whether it is fused depends on this run, and not on the one that saved it
    groups = [{**group, "fused": own.get("fused")}
              for group, own in zip(state["param_groups"], optimiser.param_groups, strict=True)]  # fmt: skip
    optimiser.load_state_dict({**state, "state": held, "param_groups": groups})
    for weight, tensors in optimiser.state.items():
        for name, tensor in tensors.items():
            if tensor.ndim and tensor.shape != weight.shape:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)} for a weight of {tuple(weight.shape)}")


class Average:
    """Exponentially averaged weights and buffers of a module, in float32 or better.

    The decay of step t, counted from 1, is min(`decay`, (1 + t) / (10 + t)), as in TensorFlow's
    `ExponentialMovingAverage` with `num_updates`: otherwise the initial weights, which are untrained, would keep the
    share `decay` ** t in the average, 73 % after 322 steps at 0.999.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Continues an average that was saved."""
        self.state = {name: alike(tensor, self.state[name]) for name, tensor in state.items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Adds the module's state after `step` steps, from 1, to the average; integer buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)
