"""The figures of an evaluation by name, as a comparison's columns."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.schemas import evaluate

HEADINGS = {
    "knn": "kNN",
    "probe": "linear probe",
    "classifier": "own classifier",
    "quantity": "error",
    "best_knn": "best kNN",
    "alignment": "alignment",
    "intra_class": "alignment in classes",
    "uniformity": "uniformity",
    "instance": "instances told apart",
} | {
    f"{space}.{way}.R@{k}": f"R@{k} {arrow} ({space})"
    for space in ("map", "heads")
    for way, arrow in (("to_teacher", "→ teacher"), ("to_student", "→ student"))
    for k in range(1, 101)
}
FORM = re.compile(
    r"(?P<plain>knn|probe|classifier|quantity)|(?P<space>map|heads)\.to_(teacher|student)\.R@(?P<k>\d+)|"
    r"(?P<way>frozen|fine-tuned)@(?P<labels>\d+|all)"
)
Figures = Mapping[str, Any]  # plain content of a report


def parts_of(measure: str) -> dict[str, str | None]:
    """What a measure says: plain; space and k; or way and labels."""
    found = FORM.fullmatch(measure)
    assert found is not None
    return found.groupdict()


def why_not(measure: str, judge: "evaluate.Config", *, first: bool) -> str:
    """What is wrong with a measure of an evaluation; empty where nothing is. The first one must be had by every row."""
    if not FORM.fullmatch(measure):
        return (
            "must be knn, probe, classifier, quantity, (map or heads).to_(teacher or student).R@k, or (frozen or "
            f"fine-tuned)@(labels a class, or all), got {measure!r}"
        )
    told, few = parts_of(measure), judge.few_labels
    counts = ["all" if count is None else str(count) for count in few.labels] if few else []
    problems = {
        "evaluate.quantity to be given": told["plain"] == "quantity" and judge.quantity is None,
        f"evaluate.retrieve_at to have {told['k']}": told["k"] and int(told["k"]) not in judge.retrieve_at,
        f"evaluate.few_labels.labels to have {told['labels']}": told["labels"] and told["labels"] not in counts,
        "evaluate.few_labels.whole: all": told["way"] == "fine-tuned" and few is not None and few.whole != "all",
        "not to come first, for objectives without heads lack it": told["space"] == "heads" and first,
    }
    return next((f"needs {need}" for need, lacks in problems.items() if lacks), "")


def needs_labels(measure: str) -> bool:
    """Whether it is an accuracy."""
    return parts_of(measure)["k"] is None and measure != "quantity"


def is_better_low(measure: str) -> bool:
    """Whether less is better: an error, not a share."""
    return measure == "quantity"


def heading_of(measure: str) -> str:
    """A measure in words."""
    told = parts_of(measure)
    return f"{told['way']}, {told['labels']} labels a class" if told["way"] else HEADINGS.get(measure, measure)


def figure_of(figures: Figures, who: str, measure: str) -> dict[str, Any] | None:
    """One figure of an evaluation: mean, standard deviation, runs; None where it was not measured.

    `who` is a student's name, teacher, random weights, or scratch, which an evaluation calls by what it was trained on;
    with few labels it is always trained on these.
    """
    told = parts_of(measure)
    if told["way"]:
        curve = "scratch" if who == "scratch" else f"{who}, {told['way']}"
        return figures["few_labels"].get(curve, {}).get(told["labels"])
    rows = [row for name, row in figures["table"].items() if name == who or name.startswith(f"{who}, ")]
    return rows[0].get(measure) if rows else None


def chance_of(figures: Figures, measure: str) -> float | None:
    """What a guess reaches."""
    k = parts_of(measure)["k"]
    return figures["chance"].get(f"R@{k}" if k else "quantity" if measure == "quantity" else "accuracy")
