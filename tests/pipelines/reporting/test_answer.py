"""What the page begins with: the verdicts, one narrow table, and whether evaluations can be compared."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipelines.reporting.answer import MOST, Evaluated, MainTable, Verdict, answer_of, plain_table, verdicts_of
from pipelines.schemas.common import HeldOutConfig
from pipelines.schemas.evaluate import Config, DataConfig, EvaluationConfig, FewLabelsConfig

COUNTS = ("1", "10", "50", "all")
EVALUATIONS = ("classification", "retrieval")
RECALLS = ("map.to_teacher.R@1", "map.to_teacher.R@5", "map.to_student.R@5", "crd.to_teacher.R@5")


def value(mean: float, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "std": 0.01, "runs": [mean]} | more


def metric(heading: str, chance: float | None = 0.1, **more: Any) -> dict[str, Any]:
    return {"heading": heading, "higher_is_better": True, "percent": True, "chance": chance} | more


def figures(**more: Any) -> dict[str, Any]:
    """Those of an evaluation of two seeds: a student and its teacher, random weights and scratch."""
    names = {"knn": metric("kNN"), "probe": metric("linear probe"), "classifier": metric("own classifier")}
    names |= {name: metric(name, 0.05) for name in RECALLS} | {f"frozen@{at}": metric(at) for at in COUNTS}
    row = {name: value(0.4) for name in ("knn", "probe")}
    both = row | {name: value(0.2 + number / 100) for number, name in enumerate(RECALLS)}
    lines = ("crd, frozen", "crd, fine-tuned", "scratch", "random weights, frozen", "teacher, frozen")
    few = {who: {at: value(place / 10) for place, at in enumerate(COUNTS)} for who in lines}
    table = {"teacher": row, "crd": both, "random weights": row, "scratch, all labels": row}
    return {"metrics": names, "table": table, "few_labels": few, "seeds": 2, "train_pairs": 90, "test_pairs": 40} | more


def evaluated(
    name: str = "a",
    given: dict[str, Any] | None = None,
    *,
    evaluations: Sequence[str] = EVALUATIONS,
    train: str = "t",
    test: str = "j",
    few: FewLabelsConfig | None = None,
) -> Evaluated:
    metrics = {key: EvaluationConfig(key) for key in evaluations}
    asked = Config(DataConfig("train", "test"), {"crd": ["student"]}, None, metrics, few or FewLabelsConfig())
    return Evaluated(name, given or figures(), {"data.train": train, "data.test": test}, asked)


def table_of(*runs: Evaluated) -> MainTable:
    (table,) = answer_of(runs).tables
    return table


def rows_of(table: MainTable) -> dict[tuple[str, str, str], list[tuple[str, str]]]:
    return {(block.name, line.network, line.use): [*line.cells] for block in table.blocks for line in block.lines}


def test_the_table_has_few_labels_probe_knn_and_recall_and_chance() -> None:
    table = table_of(evaluated())
    assert table.headings == ["10 labels a class", "all labels", "linear probe", "kNN", "R@5"]
    assert table.blocks[0].chance == ["10.0", "10.0", "10.0", "10.0", "5.0"]
    assert table.caption == "Mean over 2 seeds, in %; in small print ± standard deviation." and not any(table.units)


def test_a_row_is_a_network_and_its_use_and_scratch_is_one_row() -> None:
    rows = rows_of(table_of(evaluated()))
    assert [(network, use) for _, network, use in rows] == [
        ("teacher", "frozen"), ("crd", "frozen"), ("crd", "fine-tuned"), ("random weights", "frozen"), ("scratch", ""),
    ]  # fmt: skip
    few, recall, none = [("10.0", "±\u00a01.0"), ("30.0", "±\u00a01.0")], ("21.0", "±\u00a01.0"), ("-", "")
    assert rows["a", "crd", "frozen"] == [*few, ("40.0", "±\u00a01.0"), ("40.0", "±\u00a01.0"), recall]
    assert rows["a", "crd", "fine-tuned"] == [*few, none, none, none]
    assert rows["a", "scratch", ""] == [*few, ("40.0", "±\u00a01.0"), ("40.0", "±\u00a01.0"), none]


def test_an_interval_is_shown_in_place_of_the_deviation() -> None:
    given = figures()
    given["table"]["crd"]["probe"] = value(0.508, interval=[0.479, 0.536])
    table = table_of(evaluated("a", given))
    assert rows_of(table)["a", "crd", "frozen"][2] == ("50.8", "47.9–53.6")  # noqa: RUF001
    assert table.caption.endswith("in small print the 95 % interval or ± standard deviation.")


@pytest.mark.parametrize("count", [3, 12])
def test_the_table_stays_narrow_however_many_evaluations_there_are(count: int) -> None:
    given = figures()
    given["metrics"] |= {f"m{number}": metric(f"metric {number}") for number in range(count)}
    given["table"]["crd"] |= {f"m{number}": value(0.5) for number in range(count)}
    table = table_of(evaluated("a", given))
    assert len(table.headings) == MOST == 5
    assert all(len(line.cells) == MOST for block in table.blocks for line in block.lines)


def test_each_evaluation_has_its_first_metric_with_a_chance_level_before_any_has_a_second() -> None:
    given = figures()
    point = {"heading": "mIoU", "by": "labelled pictures", "line": "frozen"}
    more = {"alignment": metric("alignment", None, percent=False), "instance": metric("instances told apart"),
            "best_knn": metric("best kNN"), "error.pose": metric("error of pose, m", 2.0, percent=False)}  # fmt: skip
    more |= {f"miou.frozen@{at}": metric("", point=point | {"at": at}) for at in (10, 50)}
    given["metrics"] = {name: column for name, column in given["metrics"].items() if "@" not in name or "R@" in name}
    given |= {"metrics": given["metrics"] | more | {f"frozen@{at}": metric(at) for at in COUNTS}}
    given["table"]["crd"] |= {name: value(0.5) for name in more}
    table = table_of(evaluated("a", given, evaluations=(*EVALUATIONS, "diagnostics", "segmentation")))
    # diagnostics has alignment first, but its chance level is not known
    assert table.headings == [
        "10 labels a class",
        "linear probe",
        "R@5",
        "instances told apart",
        "mIoU, 10 labelled pictures",
    ]
    assert rows_of(table)["a", "crd", "frozen"][-1][0] == "50.0"


def test_an_evaluation_without_any_chance_level_is_left_out_where_others_have_one() -> None:
    given = figures(few_labels={})
    given["metrics"] = {name: given["metrics"][name] for name in ("knn", "probe")} | {
        "alignment": metric("alignment", None)
    }
    given["table"]["crd"]["alignment"] = value(0.5)
    assert table_of(evaluated("a", given, evaluations=("classification", "diagnostics"))).headings == [
        "linear probe",
        "kNN",
    ]


def test_points_of_a_curve_are_columns_by_their_place_and_by_nothing_else() -> None:
    point = {"heading": "mIoU", "by": "labelled pictures"}
    names = {f"miou.{line}@{at or 'all'}": metric("", point=point | {"at": at, "line": line})
             for line in ("frozen", "fine-tuned") for at in (5, 10, None)}  # fmt: skip
    rows = {who: {name: value(0.5) for name in names if who == "crd" or "frozen" in name} for who in ("teacher", "crd")}
    given = figures(few_labels={}, metrics=names, table=rows)
    table = table_of(evaluated("a", given, evaluations=("segmentation",)))
    assert table.headings == ["mIoU, 10 labelled pictures", "mIoU, all labelled pictures"]
    assert [(network, use) for _, network, use in rows_of(table)] == [
        ("teacher", "frozen"), ("crd", "frozen"), ("crd", "fine-tuned"),
    ]  # fmt: skip


def test_the_percent_sign_is_in_the_heading_where_units_differ() -> None:
    given = {"metrics": {"knn": metric("kNN"), "error.pose": metric("error of pose, m", 2.0, percent=False)},
             "table": {"crd": {"knn": value(0.5), "error.pose": value(1.25)}}, "few_labels": {}}  # fmt: skip
    run = evaluated("a", figures(**given))
    regression = EvaluationConfig("regression", {"fact": "pose", "columns": (0, 1), "unit": "m"})
    metrics = {"classification": EvaluationConfig("classification"), "regression": regression}
    table = table_of(replace(run, config=replace(run.config, metrics=metrics)))
    assert (table.headings, table.units) == (["kNN", "error of pose, m"], ["in %", ""])
    assert rows_of(table)["a", "crd", ""] == [("50.0", "±\u00a01.0"), ("1.250", "±\u00a00.010")]


def test_balanced_accuracy_takes_the_place_of_accuracy_where_classes_are_uneven() -> None:
    given = figures()
    given["metrics"] = {"probe.balanced": metric("linear probe, balanced", 0.2)} | given["metrics"]
    given["table"]["crd"]["probe.balanced"] = value(0.6)
    given["few_labels_balanced"] = {who: {at: value(0.7) for at in COUNTS} for who in given["few_labels"]}
    table = table_of(evaluated("a", given))
    assert table.headings[:3] == ["10 labels a class, balanced", "all labels, balanced", "linear probe, balanced"]
    assert [cell[0] for cell in rows_of(table)["a", "crd", "frozen"][:3]] == ["70.0", "70.0", "60.0"]
    assert table.blocks[0].chance[:3] == ["20.0"] * 3


def test_verdicts_are_of_the_evaluations_that_have_some_and_begin_with_each_student() -> None:
    told = ["Gain over scratch. It has 50.8 %.", "And R@5.", "No gain: not above scratch.", "It has less.", "Really."]
    answer = answer_of([evaluated("a", figures(verdict=told)), evaluated("b")])
    assert answer.verdicts == {"a": [Verdict("Gain over scratch.", "It has 50.8 %.", "And R@5."),
                                     Verdict("No gain: not above scratch.", "", "It has less. Really.")]}  # fmt: skip


def test_a_verdict_of_other_words_begins_with_its_first_sentence() -> None:
    assert verdicts_of(["It has 50.8 %.", "Twice."]) == [Verdict("It has 50.8 %.", "", "Twice.")]
    assert verdicts_of(["It has 50.8 %"]) == [Verdict("It has 50.8 %", "", "")]


def test_several_evaluations_have_one_table_of_the_columns_they_share() -> None:
    less = {"few_labels": {}, "metrics": {"knn": metric("kNN", 0.2), "classifier": metric("own classifier")},
            "table": {"other": {"knn": value(0.9)}}}  # fmt: skip
    table = table_of(evaluated("a"), evaluated("b", figures(**less)))
    assert table.headings == ["kNN"] and [block.name for block in table.blocks] == ["a", "b"]
    assert rows_of(table)["b", "other", ""] == [("90.0", "±\u00a01.0")]
    assert [block.chance for block in table.blocks] == [["10.0"], ["20.0"]]


def test_evaluations_without_a_shared_column_have_a_table_each_and_a_sentence() -> None:
    alone = {"few_labels": {}, "metrics": {"instance": metric("instances told apart")},
             "table": {"other": {"instance": value(0.9)}}}  # fmt: skip
    answer = answer_of([evaluated("a"), evaluated("b", figures(**alone), evaluations=("diagnostics",))])
    assert [table.headings[-1] for table in answer.tables] == ["R@5", "instances told apart"]
    assert answer.warnings == ["These evaluations have no metric in common, so no table compares them."]


def test_evaluations_on_the_same_pairs_are_compared_without_a_warning() -> None:
    assert not answer_of([evaluated("a"), evaluated("b")]).warnings and not answer_of([evaluated("a")]).warnings


def test_other_test_pairs_are_said_in_one_sentence() -> None:
    runs = [evaluated("a"), evaluated("b"), evaluated("c", figures(test_pairs=7), test="other", train="other")]
    (told,) = answer_of(runs).warnings
    assert told.startswith("Not comparable: these evaluations were judged on different test pairs (a, b: 40; c: 7), ")


def test_pairs_that_one_evaluation_left_out_are_other_test_pairs() -> None:
    (told,) = answer_of([evaluated("a"), evaluated("b", figures(test_pairs=30))]).warnings
    assert told.startswith("Not comparable") and "(a: 40; b: 30)" in told


def test_other_training_pairs_are_said() -> None:
    (told,) = answer_of([evaluated("a"), evaluated("b", figures(train_pairs=80), train="other")]).warnings
    assert "the test pairs are the same" in told and "(a: 90; b: 80)" in told


def test_other_held_out_pairs_are_other_test_pairs() -> None:
    run, parts = evaluated(), {"a": HeldOutConfig(), "b": HeldOutConfig(seed=1), "c": HeldOutConfig()}
    runs = [
        replace(run, name=name, inputs={"data.train": "t"},
                config=replace(run.config, data=DataConfig("train", None, held_out)))
        for name, held_out in parts.items()
    ]  # fmt: skip
    (told,) = answer_of(runs).warnings
    assert told.startswith("Not comparable") and "(a, c: 40; b: 40)" in told
    assert not answer_of([runs[0], runs[2]]).warnings


def test_other_settings_of_few_labels_are_named() -> None:
    few = FewLabelsConfig(steps=150, labels=[1, 10])
    (told,) = answer_of([evaluated("a"), evaluated("b", few=few)]).warnings
    assert told == "Compare with care: training with few labels had different settings (few_labels.steps)."


def test_a_report_of_an_earlier_version_has_its_table() -> None:
    """Names of metrics changed since, and it has neither verdict nor intervals."""
    given = figures()
    old = {"knn": "kNN", "map.to_teacher.R@5": "R@5 (map)", "heads.to_teacher.R@5": "R@5 (heads)"}
    given["metrics"] = {name: metric(heading, 0.05) for name, heading in old.items()}
    given |= {"few_labels": {}, "table": {"crd": {name: value(0.3) for name in given["metrics"]}}}
    answer = answer_of([evaluated("a", given)])
    assert not answer.verdicts and answer.tables[0].headings == ["kNN", "R@5"]


def test_without_any_chance_level_the_first_metric_is_shown() -> None:
    given = figures() | {
        "metrics": {"knn": metric("kNN", None)},
        "table": {"crd": {"knn": value(0.3)}},
        "few_labels": {},
    }
    table = table_of(evaluated("a", given))
    assert table.headings == ["kNN"] and table.blocks[0].chance == ["-"]


def test_nothing_measured_has_no_table() -> None:
    given = figures() | {"metrics": {}, "table": {"crd": {}}, "few_labels": {}}
    assert not answer_of([evaluated("a", given)]).tables and not answer_of([]).tables


def test_the_table_on_a_terminal_has_the_numbers_of_the_page() -> None:
    table = table_of(evaluated())
    lines = plain_table(table).splitlines()
    assert len(lines) == 2 + len(table.blocks[0].lines) and max(map(len, lines)) <= 100
    assert all(heading in lines[0] for heading in table.headings)
    for line, text in zip(table.blocks[0].lines, lines[1:], strict=False):
        assert text.startswith(line.network) and text.split()[-1] == line.cells[-1][0]
    assert lines[-1].split()[0] == "chance"
