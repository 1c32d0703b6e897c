"""Verdicts on figures that are made by hand."""

from typing import Any

import pytest
import torch

from crossmodal.metrics.intervals import Resampling, Totals
from modalities.common.random import generator
from pipelines.evaluation.results import Table
from pipelines.evaluation.verdict import Setting, labels_to_reach, verdicts

PAIRS, GROUPS = 240, 12
METRICS: dict[str, Any] = {
    "probe": {"heading": "linear probe", "higher_is_better": True, "percent": True, "chance": 0.25},
    "error.x": {"heading": "error of x, m", "higher_is_better": False, "percent": False, "chance": 2.0},
    "map.to_teacher.R@5": {"heading": "R@5", "higher_is_better": True, "percent": True, "chance": 5 / 240},
}


def right(share: float, seed: int) -> torch.Tensor:
    """Answers of which this share is right, more in some groups than in others."""
    random = generator("verdict", seed)
    of_group = 0.05 * torch.randn(GROUPS, generator=generator("groups")).repeat_interleave(PAIRS // GROUPS)
    return (torch.rand(PAIRS, generator=random) < share + of_group).double()


def setting(shares: dict[str, dict[str, float]], *, groups: int = GROUPS, seeds: int = 3, **others: Any) -> Setting:
    """Curves with these accuracies by row and number of labels."""
    names = [f"g{number * groups // PAIRS}" for number in range(PAIRS)]
    tables = [Table(Resampling(names)) for _ in range(3)]
    for who, curve in shares.items():
        for place, share in curve.items():
            for seed in range(seeds):
                totals = Totals.mean(right(share, hash_of(who, place, seed)))
                tables[1].add(who, place, totals(), totals)
    given = {"columns": METRICS, "modality": "depth", "answer": "rgb", "test_pairs": PAIRS, "all_labels": 200.0,
             "steps": 400, "uneven": False, "grouped": True}  # fmt: skip
    return Setting(*tables, **(given | others))


def hash_of(*words: object) -> int:
    return int(torch.randint(1 << 30, (1,), generator=generator(*map(str, words))))


TRUE = {"crd, frozen": {"10": 0.7, "all": 0.8}, "scratch": {"1": 0.2, "10": 0.4, "50": 0.6, "all": 0.9},
        "random weights, frozen": {"10": 0.3, "all": 0.4}}  # fmt: skip


def test_a_student_above_both_baselines_is_a_gain() -> None:
    lines = verdicts(setting(TRUE), {"crd": 3})
    assert lines[0].startswith("Gain over scratch and random weights. With 10 labels a class, student crd (depth, "
                               "frozen) has ")  # fmt: skip
    assert "(95 % interval " in lines[0] and "; scratch " in lines[0] and "points (+" in lines[0]
    assert lines[1].startswith("It takes about ") and lines[1].endswith(" labels a class for scratch to get there.")
    assert lines[2].startswith("With all labels, about 200 a class: frozen ") and ", scratch " in lines[2]
    assert lines[-2] == "Scratch was trained for 400 steps at most; more (few_labels.steps) may help it."
    assert lines[-1] == "The intervals are for other test pairs (12 test groups) and other trainings (3)."


def test_what_holds_for_all_students_is_said_once_and_last() -> None:
    twice = setting(TRUE | {"other, frozen": TRUE["crd, frozen"]})
    lines = verdicts(twice, {"crd": 3, "other": 3})
    assert [line.startswith("Gain") for line in lines] == [True, False, False, True, False, False, False, False]
    assert len({*lines[-2:]} & {*verdicts(twice, {"crd": 3})}) == 2


def test_an_interval_of_a_share_ends_at_all() -> None:
    few = setting(
        {"crd, frozen": {"10": 0.99}, "scratch": {"10": 0.5}, "random weights, frozen": {"10": 0.4}}, groups=3
    )
    assert " to 100.0)" in verdicts(few, {"crd": 3})[0]
    interval = few.curves.summaries()["crd, frozen"]["10"]["interval"]
    assert interval[1] == 1.0 and few.curves.summaries(lambda name: False)["crd, frozen"]["10"]["interval"][1] > 1


def test_one_student_is_told_to_be_one() -> None:
    assert verdicts(setting(TRUE), {"crd": 1})[-1].endswith("for there is one student; trainings=3 trains two more.")


@pytest.mark.parametrize(("share", "answer"), [
    (0.4, "No gain: not above scratch by more than chance explains."), (0.15, "No gain: worse than scratch and random"),
])  # fmt: skip
def test_a_student_that_is_no_better_is_no_gain(share: float, answer: str) -> None:
    assert verdicts(setting({**TRUE, "crd, frozen": {"10": share}}), {"crd": 3})[0].startswith(answer)


def test_two_groups_are_not_enough_to_say() -> None:
    assert verdicts(setting(TRUE, groups=2), {"crd": 3})[0].startswith("Not enough test groups to say (at least 3).")


def test_without_classes_the_first_metric_decides_and_a_smaller_error_is_better() -> None:
    found = setting({})
    for who, error in (("crd", 1.0), ("random weights", 1.5), ("scratch, trained on x", 1.4)):
        for seed in range(3):
            noise = 0.1 * torch.randn(PAIRS, generator=generator("errors", who, seed)).double()
            totals = Totals.mean(error + noise)
            found.table.add(who, "error.x", totals(), totals)
    line = verdicts(found, {"crd": 3})[0]
    assert line.startswith("Gain over scratch, trained on x and random weights. Student crd (depth) has 1.0")
    assert " error of x, m (95 % interval " in line


def test_where_classes_are_uneven_balanced_accuracy_decides() -> None:
    found = setting({}, uneven=True)
    for who, share in (("crd, frozen", 0.7), ("random weights, frozen", 0.3)):
        for seed in range(3):
            found.balanced_curves.add(who, "10", (each := Totals.mean(right(share, seed)))(), each)
    assert " % balanced accuracy (95 % interval " in verdicts(found, {"crd": 3})[0]


def test_without_few_labels_the_linear_probe_decides() -> None:
    probed = {**METRICS, "probe": METRICS["probe"], "probe.balanced": METRICS["probe"]}
    for uneven in (False, True):
        found = setting({}, uneven=uneven, columns={"knn": METRICS["probe"], **probed})
        for who in ("crd", "random weights"):
            for place, name in enumerate(("knn", "probe", "probe.balanced")):
                found.table.add(who, name, 0.1 * (place + 1))
        assert ("has 30.0 %" if uneven else "has 20.0 %") in verdicts(found, {"crd": 1})[0]


def test_shuffled_teaching_is_no_gain_and_true_teaching_is_in_twenty_of_twenty() -> None:
    for trial in range(20):
        names = {f"{who}{trial}": share for who, share in (("true", 0.55), ("shuffled", 0.3))}
        shares = {f"{who}, frozen": {"10": share} for who, share in names.items()}
        rest = {"scratch": {"10": 0.3}, "random weights, frozen": {"10": 0.3}}
        lines = verdicts(setting({**shares, **rest}), dict.fromkeys(names, 3))
        answers = [line for line in lines if "student" in line and "10 labels" in line]
        assert answers[0].startswith("Gain") and answers[1].startswith("No gain"), answers


def test_labels_to_reach_an_accuracy_are_between_the_measured_counts() -> None:
    curve = [(1.0, 0.2), (10.0, 0.4), (100.0, 0.6)]
    assert labels_to_reach(curve, 0.5) == pytest.approx(10 * 10**0.5)
    assert labels_to_reach(curve, 0.1) == 1.0 and labels_to_reach(curve, 0.6) == pytest.approx(100)
    assert labels_to_reach(curve, 0.7) is None
