"""The labelled pairs that a classifier is trained on, and those that judge it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crossmodal.data.held_out import hold_out, take_pairs
from crossmodal.data.shards import Shards
from crossmodal.data.splits import absent_classes, unbalanced_classes
from crossmodal.metrics.few_labels import pick_labelled
from pipelines.building.data import leave_out, open_shards
from pipelines.config import ConfigError, at
from pipelines.schemas.supervise import Config


@dataclass(frozen=True)
class LabelledParts:
    """The pairs of a supervised training."""

    train: Shards
    validation: Shards | None = None  # labelled pairs that are not trained on
    notes: tuple[str, ...] = ()  # sentences for the user

    @property
    def labelled(self) -> int:
        """The number of training pairs with a label."""
        return sum(self.train.manifest.labels.values())


def open_labelled(config: Config, modalities: Sequence[str], *, by_class: bool) -> LabelledParts:
    """The pairs to train on and to judge by.

    Args:
        config: names the shards and what to take of them.
        modalities: those of the views that are read; pairs that lack one are left out.
        by_class: an objective reads the classes of pairs. Otherwise all pairs are taken.

    Raises:
        ConfigError: there are no two classes to train on, no pairs to hold out, or `labels` or `validation` without
            `by_class`.
        ShardError: a pair cannot be read.
    """
    shards = leave_out(open_shards(config.data, "data"), modalities, "data")
    if not by_class:
        for key in ("labels", "validation"):
            if getattr(config, key) is not None:
                raise ConfigError(
                    [f"{key}: no objective reads the classes of pairs, as cross_entropy does; leave it out"]
                )
        return LabelledParts(shards)
    counts = shards.manifest.labels
    _refuse_one_class(config.data, counts)
    notes = [*unbalanced_classes(counts, config.data)]
    if config.labels is None and config.validation is None and sum(counts.values()) == len(shards):
        return LabelledParts(shards, notes=tuple(notes))
    labelled = take_pairs(shards, pick_labelled(shards.labels(), config.labels, config.seed))
    train, validation = labelled, None
    if config.validation is not None:
        with at("validation"):
            train, validation = hold_out(labelled, config.validation.share, config.validation.seed)
        _refuse_one_class(f"{config.data}, less the {len(validation)} of validation,", train.manifest.labels)
        learnt, judged = train.manifest.labels, validation.manifest.labels
        notes += absent_classes(learnt, judged, trained="training", judged="validation")
    if config.pairs == "all":
        out = set() if validation is None or validation.places is None else {*validation.places.tolist()}
        places = range(len(shards)) if shards.places is None else shards.places.tolist()
        train = take_pairs(shards, [index for index, place in enumerate(places) if place not in out]) if out else shards
    notes.insert(0, _tell(shards, train, validation))
    return LabelledParts(train, validation, tuple(notes))


def _refuse_one_class(name: str, counts: Mapping[str, int]) -> None:
    some = {label: count for label, count in counts.items() if count}
    if len(some) < 2:
        labels = ", ".join(f"{count} of {label}" for label, count in some.items()) or "none"
        raise ConfigError(
            [f"data: pairs of {name} must have labels of two or more classes to supervise with, got {labels}"]
        )


def _tell(shards: Shards, train: Shards, validation: Shards | None) -> str:
    """How many pairs are trained on, held out, and not used."""
    labelled, held = sum(train.manifest.labels.values()), 0 if validation is None else len(validation)
    text = f"trains on {labelled} labelled pairs of {sum(map(bool, train.manifest.labels.values()))} classes"
    if labelled < len(train):
        text += f" and {len(train) - labelled} without a label"
    if held:
        text += f", holds {held} labelled pairs out for validation"
    unused = len(shards) - len(train) - held
    return text + (f", and does not use the other {unused} of {len(shards)} pairs" if unused else "")
