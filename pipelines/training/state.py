"""The state of a training, and the checkpoints that it is saved to and continued from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from crossmodal import checkpoint
from crossmodal.modules.base import TrainingModule
from pipelines.training.optimiser import Average, load_optimiser
from pipelines.training.progress import Progress


@dataclass(frozen=True)
class TrainingState:
    """The tensors that a training changes."""

    module: TrainingModule
    optimiser: Any
    average: Average | None
    scaler: Any = None  # of fp16's losses

    def save(self, folder: Path, progress: Progress, sums: dict[str, Tensor]) -> None:
        """Writes a checkpoint of the step.

        Args:
            folder: of the checkpoints.
            progress: the counters, with those of this process added.
            sums: of the metrics since the last line of the log.

        Raises:
            CheckpointError: it could not be written.
        """
        state = {
            **vars(progress),
            "sums": sums,
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "memory": self.module.memory(),
            "average": self.average.state if self.average else {},
            "scaler": self.scaler.state_dict() if self.scaler else {},
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
            self.module.load_state_dict(state["module"])
            load_optimiser(self.optimiser, state["optimiser"])
            for name, tensor in self.module.memory().items():
                tensor.copy_(state["memory"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise checkpoint.CheckpointError(f"{latest} is of another version of this program ({error}); delete "
                                             f"{latest.parent} to train again") from error  # fmt: skip
        if self.average:
            self.average.load(state["average"])
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        known = {name: state[name] for name in vars(Progress()) if name in state}  # earlier versions have fewer
        return Progress(**known)
