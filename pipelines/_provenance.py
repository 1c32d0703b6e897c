"""What weights have seen: the pairs of the run they come from, of its teachers and of what these began from."""

from pathlib import Path

from crossmodal.shards import Shards
from pipelines import certify, pretrain, supervise, transfer
from pipelines._build import open_parts
from pipelines._config import ConfigError
from pipelines.evaluate import origin

VOUCH = "or vouch with prior.unseen=true that they saw none of the pairs that are certified"


def refuse_seen(weights: str, certified: Shards, key: str) -> None:
    """Refuses weights that were trained on any of the pairs that are certified: no bound would hold.

    Pairs are the same where their keys are, whatever fields they have: a depth map shows what its picture shows.

    Raises:
        ConfigError: they were; or it cannot be told.
    """
    keys = _keys(certified)
    for part, trained in _seen(weights, key):
        both = keys & _keys(part)
        if both:
            raise ConfigError([
                f"{key}: {trained} was trained on {len(both)} of the {len(keys)} pairs that are certified (as "
                f"{min(both)!r} of {part.folder}), so that the certificate would not hold; certify pairs it never saw, "
                f"such as held_out ones, {VOUCH}"
            ])  # fmt: skip


def _seen(weights: str, key: str) -> list[tuple[Shards, str]]:
    """All pairs that led to some weights, each with the run that saw them.

    Raises:
        ConfigError: they come from no finished run, whose config would say.
    """
    try:
        path, config = origin(weights)
    except ConfigError as error:
        raise ConfigError([f"{key}: {weights} is no folder of a finished run, so that nobody knows what it saw; take "
                           f"one, {VOUCH}"]) from error  # fmt: skip
    learnt, _ = open_parts(config.data, getattr(config, "held_out", None), key)
    before = _before(config)
    return [(learnt, str(path)), *(found for other in before for found in _seen(other, key))]


def _before(config: transfer.Config | supervise.Config | pretrain.Config | certify.Config) -> list[str]:
    """The weights that a run began from or was taught by."""
    if isinstance(config, pretrain.Config):
        begun = [encoder.weights for encoder in config.encoders.values()]
    elif isinstance(config, certify.Config):
        begun = [config.encoder.weights, config.teacher.weights if config.teacher else None]
    else:
        begun = [config.student.weights]
    if isinstance(config, transfer.Config):
        begun += [teacher.weights for teacher in config.teachers.values()]
    return [str(Path(weights)) for weights in begun if weights is not None]


def _keys(shards: Shards) -> set[str]:
    return {shards.locate(index)[1].key for index in range(len(shards))}
