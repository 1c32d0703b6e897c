"""The state of a training, and the checkpoints that it is saved to and continued from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossmodal import checkpoint
from crossmodal.modules.base import TrainingModule
from pipelines.training.optimiser import Average, load_optimiser
from pipelines.training.progress import Progress
from pipelines.training.sharding import alike, share


@dataclass(frozen=True)
class TrainingState:
    """The tensors that a training changes.

    If no rank holds all of them, a checkpoint is a folder that all ranks write; otherwise it is a file. Either is
    continued on any number of ranks, sharded or not.
    """

    module: TrainingModule
    optimiser: Any
    average: Average | None
    scaler: Any = None  # of fp16's losses
    is_sharded: bool = False  # True: ranks hold parts of the tensors

    def save(self, folder: Path, progress: Progress, sums: dict[str, Tensor], *, group: Any = None) -> None:
        """Writes a checkpoint of the step; rank 0 calls it, or every rank if the state is sharded.

        Args:
            folder: of the checkpoints.
            progress: the counters, with those of this process added.
            sums: of the metrics since the last line of the log.
            group: of all processes, to coordinate by; None: the default one.

        Raises:
            CheckpointError: it could not be written.
        """
        scaler = self.scaler.state_dict() if self.scaler else {}
        counters = {**vars(progress), "sums": sums, "scaler": scaler}
        if self.is_sharded:
            weights = {name for name, _ in self.module.named_parameters()}
            averages = self.average.state.items() if self.average else ()
            share([*self.module.buffers(), *(tensor for name, tensor in averages if name not in weights)])
            checkpoint.save_sharded(folder, progress.step, counters, self._tensors(), group=group)
            return
        state = {
            **counters,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "memory": self.module.memory(),
            "average": self.average.state if self.average else {},
        }
        checkpoint.save(folder, progress.step, state)

    def load(self, folder: Path) -> Progress | None:
        """Loads the newest checkpoint; gives its counters, or None if there is none.

        Raises:
            CheckpointError: it is damaged, or of another version of this program.
        """
        latest = checkpoint.latest(folder)
        if latest is None:
            return None
        state = checkpoint.load(latest)
        try:
            if latest.is_dir():
                self._read(latest)
            else:
                self._take(state)
            if self.scaler and state.get("scaler"):
                self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            if isinstance(error, checkpoint.CheckpointError):
                raise
            raise checkpoint.CheckpointError(f"{latest} is of another version of this program ({error}); delete "
                                             f"{latest.parent} to train again") from error  # fmt: skip
        known = {name: state[name] for name in vars(Progress()) if name in state}  # earlier versions have fewer
        return Progress(**known)

    def _take(self, state: Mapping[str, Any]) -> None:
        """Loads a file's state."""
        own = self.module.state_dict()
        module = {name: alike(tensor, own[name]) if name in own else tensor for name, tensor in state["module"].items()}
        self.module.load_state_dict(module)
        load_optimiser(self.optimiser, state["optimiser"])
        for name, tensor in self.module.memory().items():
            tensor.copy_(alike(state["memory"][name], tensor))
        if self.average:
            self.average.load(state["average"])

    def _read(self, path: Path) -> None:
        """Reads a folder's tensors into those of this state."""
        names, stored = self._names(), checkpoint.sizes(path)
        for weight, name in names.items():
            begin = f"optimiser.{name}."
            fields = {key.removeprefix(begin): stored[key] for key in stored if key.startswith(begin)}
            if fields:
                self.optimiser.state[weight] = {
                    field: torch.zeros_like(weight if size else torch.empty((), device=weight.device), dtype=kind)
                    for field, (size, kind) in fields.items()
                }
        checkpoint.load_sharded(path, self._tensors())

    def _names(self) -> dict[Tensor, str]:
        """The names of the weights that the optimiser changes."""
        return {weight: name for name, weight in self.module.named_parameters() if weight.requires_grad}

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors by names that do not depend on the number of ranks; they share memory with the state."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "module": self.module.state_dict(),
            "memory": self.module.memory(),
            "average": self.average.state if self.average else {},
        }
        for weight, name in self._names().items():
            parts[f"optimiser.{name}"] = self.optimiser.state.get(weight, {})
        return {f"{part}.{name}": tensor for part, each in parts.items() for name, tensor in each.items()}
