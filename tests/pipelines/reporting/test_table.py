"""Cells and tables: intervals, numbers that stay on one line, and parts that a sheet of paper holds."""

from typing import Any

import pytest

from pipelines.reporting.table import certificates_table, joined, metrics_table, parts_of, spread, unbroken, value

PERCENT, METRES = {"percent": True}, {"percent": False}


@pytest.mark.parametrize(
    ("figure", "metric", "shown"),
    [
        ({"mean": 0.508, "std": 0.01, "interval": [0.479, 0.536]}, PERCENT, ("50.8", "47.9–53.6")),  # noqa: RUF001
        ({"mean": 0.508, "std": 0.014}, PERCENT, ("50.8", "±\u00a01.4")),
        ({"mean": 0.508, "std": 0.014, "interval": None}, PERCENT, ("50.8", "±\u00a01.4")),
        ({"mean": 0.508, "std": None}, PERCENT, ("50.8", "")),
        ({"mean": 0.1, "std": None, "interval": [-0.25, 0.5]}, METRES, ("0.100", "-0.250 to 0.500")),
        ({"mean": None, "std": None}, PERCENT, ("-", "")),
        (None, METRES, ("-", "")),
    ],
)
def test_a_cell_is_a_number_and_its_interval_or_deviation(
    figure: dict[str, Any] | None, metric: dict[str, Any], shown: tuple[str, str]
) -> None:
    assert (value(figure, metric), spread(figure, metric)) == shown


def test_a_cell_of_one_line_has_its_interval_in_brackets() -> None:
    given = {"mean": 0.5, "std": 0.1}
    assert joined(given, PERCENT) == "50.0 ±\u00a010.0" and joined(given | {"std": None}, PERCENT) == "50.0"
    assert joined(given | {"interval": [0.4, 0.6]}, PERCENT) == "50.0 (40.0–60.0)"  # noqa: RUF001


@pytest.mark.parametrize("count", [*range(1, 30)])
def test_parts_of_a_table_are_narrow_and_together_hold_every_column_once(count: int) -> None:
    table = [[f"{row}.{column}" for column in range(count + 1)] for row in range(3)]
    parts = parts_of(table, 6)
    assert len(parts) == -(-count // 6) and all(len(row) <= 7 for part in parts for row in part)
    assert all([row[0] for row in part] == [row[0] for row in table] for part in parts)
    assert [[cell for part in parts for cell in part[row][1:]] for row in range(3)] == [row[1:] for row in table]
    widths = [len(part[0]) for part in parts]
    assert max(widths) - min(widths) <= 1


def test_metrics_are_rows_beside_chance_and_networks_are_columns() -> None:
    columns = {"knn": {"heading": "kNN", "percent": True, "chance": 0.1},
               "error": {"heading": "error, m", "percent": False, "chance": None}}  # fmt: skip
    rows = {"ours": {"knn": {"mean": 0.25, "std": None}}, "scratch": {"error": {"mean": 2.0, "std": None}}}
    assert metrics_table(columns, rows) == [
        ["", "chance", "ours", "scratch"], ["kNN, %", "10.0", "25.0", "-"], ["error, m", "-", "-", "2.000"],
    ]  # fmt: skip


def test_posteriors_of_a_certificate_are_columns() -> None:
    row = dict.fromkeys(("train_risk", "kl", "union", "monte_carlo_slack", "total", "without_monte_carlo", "test_risk",
                         "train_mean_weights", "test_mean_weights"), 0.25)  # fmt: skip
    figures = {
        "rows": {"prior": row, "posterior": row | {"total": 0.5}},
        "selected": {"bound": "prior", "risk": "prior"},
    }
    table = {line[0]: line[1:] for line in certificates_table(figures)}
    assert table["bound"] == ["0.250", "0.500"] and table["KL, nats"] == ["0.2", "0.2"]
    assert table["selected by"] == ["bound, risk", ""] and "bound by McDiarmid" not in table
    judged = row | {
        "mcdiarmid": 0.75,
        "classifier": {kind: {"avg2": 0.5, "top1": 0.1, "top5": 0.2} for kind in ("mu", "mu-5")},
    }
    table = {line[0]: line[1:] for line in certificates_table({"rows": {"prior": judged}, "selected": {}})}
    assert table["bound by McDiarmid"] == ["0.750"] and table["top-1 of five a class, %"] == ["10.0"]


def test_numbers_stay_on_one_line_with_their_unit_and_the_other_end_of_their_interval() -> None:
    told = "With 10 labels it has 50.8 % (47.9 to 53.6): +13.3 points (+10.1 to -16.4), 2 ± 1; chance 0.8 in 5 of 9."
    lines = unbroken(told).split(" ")
    assert "50.8\u00a0%" in lines and "(47.9\u00a0to\u00a053.6):" in lines and "+13.3\u00a0points" in lines
    assert "(+10.1\u00a0to\u00a0-16.4)," in lines and "2\u00a0±\u00a01;" in lines
    assert unbroken(told).replace("\u00a0", " ") == told and "labels" in lines and "5" in lines
