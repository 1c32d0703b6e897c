"""A trained classifier judged by held-out pairs, and the temperature that calibrates its probabilities."""

from dataclasses import dataclass, field
from typing import Any

import torch

from crossmodal.data.manifest import ShardError
from crossmodal.data.samples import ShardSamples, load_samples
from crossmodal.data.shards import Shards
from crossmodal.data.views import View
from crossmodal.encoders import Encoder
from crossmodal.metrics.calibration import (
    COLDEST,
    HOTTEST,
    fit_temperature,
    judge_probabilities,
    temperature_interval,
)


@dataclass(frozen=True)
class Judgement:
    """A classifier's figures on held-out pairs, and the temperature that was fitted on them."""

    temperature: float | None  # None: none could be fitted
    figures: dict[str, Any]  # for the report
    notes: list[str] = field(default_factory=list)  # sentences for the user


def refuse_unreadable(shards: Shards, view: View) -> None:
    """Reads all pairs once, so that one that cannot be read is an error before the training and not after it.

    Raises:
        ShardError: a pair cannot be read.
    """
    for part in load_samples(ShardSamples(shards, view)):
        for problem in filter(None, part.problems):
            raise ShardError(f"{problem} (on_error: skip judges without it, and reports and counts it)")


@torch.inference_mode()
def judge_classifier(encoder: Encoder, view: View, validation: Shards) -> Judgement:
    """Fits the temperature on pairs that were not trained on, and judges with it and without.

    A pair that cannot be read is named in the notes and counted.

    Args:
        encoder: has a classifier; it is left in eval mode, on its device.
        view: its input.
        validation: labelled pairs.
    """
    device = next(encoder.parameters()).device
    encoder.eval()
    logits, labels, notes = [], [], list[str]()
    for part in load_samples(ShardSamples(validation, view)):
        notes += [f"a pair of validation cannot be read: {problem}" for problem in part.problems if problem]
        if part.adapted is not None:
            answers = encoder(view.modality.normalise(part.adapted.to(device))).logits
            assert answers is not None
            logits.append(answers.float().cpu())
            labels.append(part.label)
    figures: dict[str, Any] = {"pairs": sum(map(len, labels)), "unreadable": len(notes)}
    if not logits:
        return Judgement(
            None, figures, [*notes, "no pair of validation can be read, so probabilities are not calibrated"]
        )
    rows, truth = torch.cat(logits), torch.cat(labels)
    before, temperature = judge_probabilities(rows, truth), fit_temperature(rows, truth)
    after = before if temperature is None else judge_probabilities(rows, truth, temperature)
    figures |= {"temperature": temperature, "before": before, "after": after}
    notes.append(
        f"{len(truth)} pairs of validation: accuracy {before['accuracy']:.1%}, "
        f"balanced {before['balanced_accuracy']:.1%}"
    )
    if temperature is None:
        notes.append(
            f"no temperature from {COLDEST:g} to {HOTTEST:g} minimises the loss, because "
            + ("all answers are right" if before["accuracy"] == 1 else "the answers are no better than chance")
            + ", so probabilities are not calibrated; hold out more pairs"
        )
    else:
        low, high = temperature_interval(rows, temperature)
        figures["temperature_interval"] = [low, high]
        notes.append(
            f"temperature {temperature:.2f} (95 % interval {low:.2f} to {high:.2f}): loss {before['nll']:.3f} -> "
            f"{after['nll']:.3f} nats, calibration error {before['ece']:.1%} -> {after['ece']:.1%}"
        )
    return Judgement(temperature, figures, notes)
