"""The flags that try a training in place of its run: `crossmodal transfer my.yaml --dry-run`."""

from collections.abc import Sequence
from dataclasses import fields

from pipelines.config.errors import ConfigError

TRIALS = {
    "--dry-run": "take a few steps and print the costs: weights, negatives, time, memory",
    "--overfit": "learn one batch by heart, or print which loss or which weights do not learn",
    "--replay": "find the step, layer and pairs that made a loss not finite, from the last checkpoint on",
}


def has_trials(schema: type) -> bool:
    """True if the config of a pipeline has the field `trial`."""
    return "trial" in {item.name for item in fields(schema)}


def read_trial(name: str, schema: type, words: Sequence[str]) -> list[str]:
    """The words of a command, with an override of the field `trial` for its flag.

    Raises:
        ConfigError: there are several flags, or the pipeline does not train.
    """
    flags, others = [word for word in words if word in TRIALS], [word for word in words if word not in TRIALS]
    if flags and not has_trials(schema):
        raise ConfigError([f"crossmodal {name} has no {flags[0]}; transfer, supervise and pretrain have"])
    if len(flags) > 1:
        raise ConfigError([f"crossmodal {name}: give one of {', '.join(flags)}"])
    return others + [f"trial={flag[2:].replace('-', '_')}" for flag in flags]
