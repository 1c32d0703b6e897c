"""Networks whose weights are sharded over the processes of a launch (FSDP2), as `accelerate launch --use_fsdp` asks.

Accelerate gives the options; `fully_shard` is called here and not by `Accelerator.prepare`, which does not shard on
CPUs, and whose policy of mixed precision would cast the weights of projection heads, that compute in float32.
"""

import contextlib
import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree

from crossmodal.contrast.pool import Pool
from crossmodal.encoders import Encoder
from crossmodal.modules.base import Losses
from crossmodal.objectives import Outcome
from pipelines.config import ConfigError
from pipelines.runs import distributed
from pipelines.training.launcher import is_sharded

Network = TypeVar("Network", bound=nn.Module)


def outline(module: Network) -> Network:
    """A copy without memory for the weights, to load them into later, and without the state of pools."""
    memo: dict[int, Any] = {}
    for weight in module.parameters():
        memo[id(weight)] = nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
    for pool in module.modules():
        if isinstance(pool, Pool):
            memo[id(pool.remembered)] = {}
    return copy.deepcopy(module, memo)


def shard(module: nn.Module, device: torch.device) -> None:
    """Shards a module in place; every block of its encoders is gathered when it computes, and all else at once.

    A frozen network, of whose weights none is trained, is released after its forward pass. The module may lie on the
    CPU: each block moves to the device on its own.

    Raises:
        ConfigError: accelerate's policy names blocks that no encoder has.
    """
    from torch.distributed.fsdp import fully_shard

    if scalars := [name for name, weight in module.named_parameters() if not weight.ndim]:
        raise ConfigError([f"FSDP cannot shard single numbers, such as {scalars[0]}; launch without it, or leave "
                           "this objective out"])  # fmt: skip
    for kind in (Losses, Outcome):  # the hooks of the backward pass are on the output's tensors
        if kind not in _pytree.SUPPORTED_NODES:
            _pytree.register_dataclass(kind)
    for part in module.modules():
        if isinstance(part, Pool):
            part.to(device)
    for weight in module.parameters():
        weight.data = weight.data.contiguous()  # FSDP shards no other layout
    for part in module.modules():
        if isinstance(part, Encoder):  # layers follow their input's layout, where weights are not channels-last
            part.register_forward_pre_hook(lambda _, inputs: (_last_channels(inputs[0]), *inputs[1:]))
    plugin = FullyShardedDataParallelPlugin()
    mesh = torch.distributed.init_device_mesh(device.type, (distributed.count(),))
    for block in _chosen_blocks(module, plugin):
        fully_shard(block, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)
    is_frozen = not any(weight.requires_grad for weight in module.parameters())
    fully_shard(module, mesh=mesh, reshard_after_forward=True if is_frozen else None)


def _chosen_blocks(module: nn.Module, plugin: FullyShardedDataParallelPlugin) -> list[nn.Module]:
    """The blocks of all encoders that accelerate's policy chooses; without a policy, all."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    blocks = [block for part in module.modules() if isinstance(part, Encoder) for block in part.blocks]
    try:
        policy = fsdp2_prepare_auto_wrap_policy(plugin, module)
    except ValueError as error:
        names = ", ".join(sorted({type(block).__name__ for block in blocks}))
        raise ConfigError([f"fsdp_transformer_layer_cls_to_wrap: {error} Its blocks are {names or 'none'}; leave "
                           "fsdp_auto_wrap_policy out to shard each"]) from error  # fmt: skip
    return blocks if policy is None else [block for block in blocks if policy(block)]


def _last_channels(batch: Tensor) -> Tensor:
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def unshard(module: nn.Module, whole: Network) -> Network:
    """Loads the sharded weights into `whole`, on the CPU of rank 0; every rank must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if distributed.is_main():
        whole.load_state_dict(state, assign=True)
    return whole


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Gives every rank those of rank 0, as DDP does with buffers at every step; sharded tensors do not change."""
    by_kind: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if not isinstance(tensor, DTensor):
            by_kind.setdefault(tensor.dtype, []).append(tensor)
    for each in by_kind.values():
        flat = torch.cat([tensor.flatten() for tensor in each])
        torch.distributed.broadcast(flat, 0)
        for tensor, part in zip(each, flat.split([tensor.numel() for tensor in each]), strict=True):
            tensor.copy_(part.view_as(tensor))


def unreached_backward(module: nn.Module, loss: Tensor) -> list[nn.Parameter]:
    """The trainable weights of a sharded module that get no gradient from this loss; see `crossmodal.modules.base`."""
    loss.backward()
    left = [weight for weight in module.parameters() if weight.requires_grad and weight.grad is None]
    module.zero_grad()
    return left


def accumulating(model: Any) -> AbstractContextManager[None]:
    """A backward pass in which the ranks do not exchange gradients."""
    return _accumulating(model) if is_sharded() else model.no_sync()


@contextlib.contextmanager
def _accumulating(model: Any) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def alike(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, equal on all ranks, on the device of another and sharded as that is."""
    tensor = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
