"""Checks that a config and the launcher's own options agree; needs no torch."""

import os

from pipelines.config import ConfigError
from pipelines.runs import distributed
from pipelines.schemas.common import TrainConfig


def is_asked(name: str) -> bool:
    """True if the launcher set a variable of the environment to true."""
    return os.environ.get(name, "false").lower() == "true"


def is_sharded() -> bool:
    """True if this launch shards networks (`accelerate launch --use_fsdp`); one process has nothing to shard."""
    return is_asked("ACCELERATE_USE_FSDP") and distributed.count() > 1


def check_launcher(config: TrainConfig) -> None:
    """Refuses options of accelerate that contradict the config, or that this program does not follow.

    Raises:
        ConfigError: has a sentence for each, which names both.
    """
    problems = []
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # the launcher says no where nothing is asked
    if precision not in ("no", config.mixed_precision):
        problems.append(f"accelerate's mixed_precision is {precision}, and train.mixed_precision is "
                        f"{config.mixed_precision}; leave accelerate's out, or make them equal")  # fmt: skip
    parts = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if parts not in ("1", str(config.accumulate)):
        problems.append(f"accelerate's gradient_accumulation_steps is {parts}, and train.accumulate is "
                        f"{config.accumulate}; leave accelerate's out, or make them equal")  # fmt: skip
    for name, variable in (
        ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED"),
        ("Megatron-LM", "ACCELERATE_USE_MEGATRON_LM"),
        ("a parallelism_config", "ACCELERATE_USE_PARALLELISM_CONFIG"),
    ):
        if is_asked(variable):
            problems.append(f"accelerate is to launch {name}, but train runs on one process, or with DDP or FSDP2 "
                            "(--use_fsdp --fsdp_version 2)")  # fmt: skip
    if is_sharded():
        problems += _sharding_problems(config)
    if problems:
        raise ConfigError(problems)


def _sharding_problems(config: TrainConfig) -> list[str]:
    version = os.environ.get("FSDP_VERSION", "1")
    refused = {
        f"accelerate's fsdp_version is {version}, but train works with FSDP2 only: launch with --fsdp_version 2": (
            version != "2"
        ),
        "accelerate's fsdp_offload_params is true, but train keeps weights on the device; leave it out": is_asked(
            "FSDP_OFFLOAD_PARAMS"
        ),
        "accelerate's fsdp_activation_checkpointing is true; leave it out, and set train.checkpoint_activations=true": (
            is_asked("FSDP_ACTIVATION_CHECKPOINTING")
        ),
        "train.chunk computes gradients that FSDP does not exchange; leave it out, and set "
        "train.checkpoint_activations=true to save memory": config.chunk is not None,
        "train.compile does not work under FSDP; leave it out": bool(config.compile),
        "train.mixed_precision must be no or bf16 under FSDP, got fp16": config.mixed_precision == "fp16",
    }
    return [problem for problem, holds in refused.items() if holds]


def refuse_sharded(what: str) -> None:
    """Refuses a part of a config that does not work with sharded networks.

    Raises:
        ConfigError: this launch shards networks; the message begins with `what`.
    """
    if is_sharded():
        raise ConfigError([f"{what} does not work under FSDP; launch without --use_fsdp"])
