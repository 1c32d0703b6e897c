"""Opens Accelerate as the config and the launcher ask."""

from pathlib import Path

import torch
from accelerate import Accelerator, AutocastKwargs, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from pipelines.config import ConfigError
from pipelines.runs import distributed
from pipelines.schemas.common import TrainConfig
from pipelines.training.compilation import check_compiler
from pipelines.training.launcher import check_launcher, is_sharded

KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def open_accelerator(config: TrainConfig, folder: Path) -> Accelerator:
    """The device, precision and processes of a run.

    Raises:
        ConfigError: config, launcher and device do not fit together.
    """
    distributed.together(lambda: _check(config))
    AcceleratorState._reset_state()  # an earlier stage in this process may have used another precision
    try:
        distributed.meet()
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),
            mixed_precision=config.mixed_precision,
            log_with=config.trackers or None,
            project_dir=folder,
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                # whose cache would hold a copy of every weight that was gathered
                *([AutocastKwargs(cache_enabled=False)] if is_sharded() else []),
            ],
        )
    except (ValueError, ImportError) as error:
        raise ConfigError([f"train: {error}"]) from error
    if accelerator.distributed_type not in KINDS:
        raise ConfigError([f"launch with DDP, FSDP2 or one process, not {accelerator.distributed_type}"])
    return accelerator


def _check(config: TrainConfig) -> None:
    check_launcher(config)
    if config.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError(["train.mixed_precision must be no or bf16 on a CPU, got fp16"])
    check_compiler(config)
