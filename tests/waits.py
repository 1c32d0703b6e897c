"""Computes on a GPU that is not there: tensors have shapes and no values, and whatever would wait for the GPU fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)


class CopyError(AssertionError):
    """An operator copied between GPU and host."""


class Watch(TorchDispatchMode):
    """Counts operators, and refuses those that copy between GPU and host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator, and compares the devices of what it takes and gives."""
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        copies = "copy" in func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        devices = {leaf.device.type for leaf in tensors if leaf.ndim or copies}  # operators take numbers of the host
        if len(devices) > 1:
            raise CopyError(f"{func} copies between {' and '.join(sorted(devices))}")
        return result


@contextmanager
def gpu_without_values() -> Iterator[None]:
    """Within, tensors have no values, and an operator that would wait for those of `GPU` raises."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
