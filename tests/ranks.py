"""Ranks of a launch as threads of one process, which meet at a barrier."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed
from torch import Tensor

from pipelines.runs import console, distributed, folder


class Ranks:
    """Runs one function a rank; what they gather is exchanged. One works at a time, until it waits for the others."""

    def __init__(self, count: int, patch: pytest.MonkeyPatch) -> None:
        self.count, self.here = count, threading.local()
        self.barrier, self.values = threading.Barrier(count, timeout=20), [None] * count
        self.turn = threading.Lock()  # Python 3.11 cannot parse source in several threads at once
        patch.setattr(distributed, "count", lambda: count)
        patch.setattr(distributed, "rank", lambda: self.here.rank)
        patch.setattr(distributed, "gather", self.gather)
        patch.setattr(torch.distributed, "get_backend", lambda: "gloo")
        patch.setattr(torch.distributed, "broadcast", self.broadcast)
        for module in (distributed, folder, console):
            patch.setattr(module, "is_main", lambda: self.here.rank == 0)
        patch.setattr(folder, "environment", lambda: {"packages": {}})  # which starts a process

    def gather(self, value: Any) -> list[Any]:
        """What all ranks gave, in their order."""
        self.values[self.here.rank] = value
        self._meet()
        found = list(self.values)
        self._meet()
        return found

    def broadcast(self, tensor: Tensor, src: int, group: None = None) -> None:
        """Overwrites the tensor with that of one rank."""
        tensor.copy_(self.gather(tensor.clone())[src])

    def _meet(self) -> None:
        self.turn.release()
        try:
            self.barrier.wait()
        finally:
            self.turn.acquire()

    def run(self, *each: Callable[[], Any]) -> list[Any]:
        """What each rank's function returns or raises."""
        found: list[Any] = [None] * self.count

        def work(rank: int) -> None:
            self.here.rank = rank
            with self.turn:
                try:
                    found[rank] = each[rank]()
                except Exception as error:
                    found[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found
