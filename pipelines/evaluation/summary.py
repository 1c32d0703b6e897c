"""The figures of an evaluation that answer most questions, as one narrow table."""

from collections.abc import Mapping
from typing import Any

from pipelines.reporting.table import cell

MOST = 5  # columns of figures
PREFERRED = ("probe", "probe.balanced", "knn", "map.to_teacher.R@5")  # after accuracy with few labels


def summary_table(figures: Mapping[str, Any]) -> list[list[str]]:
    """A heading, a row for every network, and chance; every cell is text.

    Accuracy with few labels comes first: with 10 a class where this was measured, and with all.
    """
    metrics, table = figures["metrics"], figures["table"]
    curves = figures.get("few_labels_balanced") or figures["few_labels"]
    places = [*next(iter(curves.values()), {})]
    chosen = [place for place in ("10" if "10" in places else next(iter(places), ""), "all") if place in places]
    balanced = ", balanced" * ("few_labels_balanced" in figures)
    heads = [f"{place} {'label' if place == '1' else 'labels'}{' a class' * (place != 'all')}{balanced}"
             for place in dict.fromkeys(chosen)]  # fmt: skip
    measured = [name for name in metrics if any(name in row for row in table.values())]
    hidden = () if balanced else ("probe.balanced",)
    usual = [name for name in PREFERRED if name in measured and name not in hidden] or measured
    columns = usual[: MOST - len(heads)]
    rows = [["", *heads, *(metrics[name]["heading"] for name in columns)]]
    names = [*dict.fromkeys([*table, *(name for name in curves if name == "scratch")])]
    for who in names:
        ways = [way for way in (who, f"{who}, frozen", f"{who}, fine-tuned") if way in curves] or [""]
        for place, way in enumerate(ways):
            few = [cell(curves[way].get(name), {"percent": True}) if way else "-" for name in dict.fromkeys(chosen)]
            own = [cell(table.get(who, {}).get(name), metrics[name]) if place == 0 else "-" for name in columns]
            rows.append([way or who, *few, *own])
    chance = [_chance(metrics.get(f"frozen@{place}", {}).get("chance"), True) for place in dict.fromkeys(chosen)]
    return [*rows, ["chance", *chance, *(_chance(metrics[name]["chance"], metrics[name]["percent"])
                                         for name in columns)]]  # fmt: skip


def _chance(value: float | None, percent: bool) -> str:
    return cell(None if value is None else {"mean": value, "std": None}, {"percent": percent})


def plain(table: list[list[str]]) -> str:
    """The table in columns of text, the first to the left and the others to the right."""
    widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) if place == 0 else text.rjust(width)
                  for place, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in table
    )  # fmt: skip
