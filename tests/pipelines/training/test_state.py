"""What a training continues with, whoever saved it."""

from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from crossmodal.modules.base import Losses, TrainingModule
from crossmodal.objectives import Batch, Learner
from pipelines.config import ConfigError
from pipelines.schemas.common import TrainConfig
from pipelines.training.optimiser import build_optimiser, load_optimiser
from pipelines.training.progress import Progress
from pipelines.training.sharding import shard
from pipelines.training.state import TrainingState


class Scaled(TrainingModule):
    """A network with a weight that is a single number."""

    def __init__(self) -> None:
        super().__init__({"one": Learner()}, {"one": 1.0})
        self.network, self.scale = nn.Linear(3, 2), nn.Parameter(torch.tensor(2.0))

    @property
    def trained(self) -> dict[str, nn.Module]:
        """The network."""
        return {"student": self.network}

    def forward(self, batch: Batch) -> Losses:
        """Never called."""
        raise NotImplementedError


class Scaler:
    """The state of a scale of fp16's losses."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        """The scale."""
        return {"scale": self.scale}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes over a scale."""
        self.scale = state["scale"]


@pytest.fixture
def alone(tmp_path: Path) -> object:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_an_optimiser_is_fused_as_its_own_run_wants(alone: object) -> None:
    network, config = nn.Linear(3, 2), TrainConfig(optimiser="sgd", momentum=0.9)
    saved, own = build_optimiser(network, config), build_optimiser(network, config, is_sharded=True)
    network(torch.ones(1, 3)).sum().backward()
    saved.step()
    load_optimiser(own, saved.state_dict())
    assert [group["fused"] for group in own.param_groups] == [False, False]
    same: list[Tensor] = [state["momentum_buffer"] for state in own.state.values()]
    assert all(map(torch.equal, same, [state["momentum_buffer"] for state in saved.state.values()]))


@pytest.mark.parametrize("is_sharded", [False, True])
def test_the_scale_of_losses_goes_on(alone: object, tmp_path: Path, is_sharded: bool) -> None:
    def state_of(scale: float) -> TrainingState:
        module = Scaled()
        return TrainingState(module, build_optimiser(module, TrainConfig()), None, Scaler(scale), is_sharded)

    state_of(128.0).save(tmp_path / "checkpoints", Progress(step=3), {})
    assert (tmp_path / "checkpoints" / "step_000000003").is_dir() == is_sharded
    later = state_of(65536.0)
    progress = later.load(tmp_path / "checkpoints")
    assert progress is not None and progress.step == 3 and later.scaler.scale == 128.0


def test_single_numbers_cannot_be_sharded(alone: object) -> None:
    with pytest.raises(ConfigError, match="FSDP cannot shard single numbers, such as scale; launch without it"):
        shard(Scaled(), torch.device("cpu"))
