"""Tables for people: the cells of a metric, the table of a comparison, and that of certificates."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Results = Mapping[str, Any]  # of a run, as plain content
Table = Sequence[Sequence[str]]  # the first row is the heading

BREAKS = re.compile(r"(?<=\d) (?=%|to [+-]?\d|points?\b|±)|(?<=\d to) (?=[+-]?\d)|(?<=±) (?=\d)")
NO_BREAK = "\N{NO-BREAK SPACE}"
WIDE = 6  # columns of numbers of a part of a table, so that a sheet of paper holds it


def rows_of(results: Results) -> list[list[str]]:
    """A heading and a row for every entry, best first, then what they are compared with; every cell is text."""
    metrics, has_search = results["metrics"], results["search"] is not None
    columns = [metric["heading"] for metric in metrics.values()]
    heading = ["", *columns, "seeds", *(["tuned"] * has_search), "ms a step", "peak MB"]
    table = [heading]
    for name, row in results["rows"].items():
        shown = [cell(row["figures"][key], metric) for key, metric in metrics.items()]
        if not row["trained"]:
            shown[0] = "diverged"
        seeds = f"{row['trained']} of {row['trained'] + row['diverged']}" if row["diverged"] else str(row["trained"])
        tuned = _factors(row["chosen"]) if row["trials"] and row["chosen"] else "-"
        costs = [_number(row["milliseconds_per_step"], ".1f"), _number(row["peak_memory_mb"], ".0f")]
        table.append([name, *shown, seeds, *([tuned] * has_search), *costs])
    against = {name: [cell(figures[key], metric) for key, metric in metrics.items()]
               for name, figures in results["baselines"].items()}  # fmt: skip
    against["chance"] = [cell({"mean": metric["chance"], "std": None}, metric) for metric in metrics.values()]
    empty = [""] * (len(heading) - len(metrics) - 1)
    return table + [[name, *shown, *empty] for name, shown in against.items()]


def caption_of(results: Results) -> str:
    """The conditions of the table, in a few sentences."""
    shared, metrics = results["shared"], [*results["metrics"].values()]
    told = [
        f"Mean ± standard deviation over seeds {', '.join(map(str, results['seeds']))}{unit_of(metrics)}.",
        f"{shared['steps']} steps each on {shared['pairs']} pairs, judged on {shared['test_pairs']} others; "
        f"{shared['processes']} x {shared['device']}, {shared['seconds'] / 60:.0f} minutes in all.",
    ]
    if shared["search"]:
        told.append(
            f"Tuned by {metrics[0]['heading']} on {shared['search']['held_out_pairs']} pairs held out of "
            f"training, {shared['search']['steps']} steps a trial: {_axes(results['search'])}."
        )
    if shared["device"] == "cpu":
        told.append("Peak MB on a CPU is all of the process that is resident, with Python and its libraries: it hardly "
                    "tells objectives apart.")  # fmt: skip
    before = {name: row["preparation_steps"] for name, row in results["rows"].items() if row["preparation_steps"]}
    if before:
        told.append(f"Prepared before: {', '.join(f'{name} in {steps} steps' for name, steps in before.items())}.")
    lost = [f"{name} at {_factors(trial)}" for name, row in results["rows"].items() for trial in row["trials"]
            if trial["diverged"]]  # fmt: skip
    return " ".join([*told, *([f"Diverged in the search: {'; '.join(lost)}."] if lost else [])])


def unit_of(metrics: Sequence[Mapping[str, Any]]) -> str:
    """How a caption says which columns are in percent; empty where none is."""
    percent = [metric["heading"] for metric in metrics if metric["percent"]]
    return "" if not percent else ", in %" if len(percent) == len(metrics) else f", in % for {', '.join(percent)}"


def markdown(table: Table) -> str:
    """A table as Markdown; the first row is its heading."""
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) + "\n"


def parts_of(table: Table, most: int = WIDE) -> list[list[list[str]]]:
    """A table as one or more below each other, of which each has the first column and at most `most` others."""
    count = len(table[0]) - 1
    parts = max(1, math.ceil(count / most))
    edges = [1 + round(part * count / parts) for part in range(parts + 1)]
    return [[[row[0], *row[low:high]] for row in table] for low, high in pairwise(edges)]


def metrics_table(columns: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row for each metric and a column for each network, after the chance level.

    Args:
        columns: how tables show each metric, by name.
        rows: the figures of each network, by name.
    """
    table = [["", "chance", *rows]]
    for name, metric in columns.items():
        unit = ", %" if metric["percent"] else ""
        cells = [joined(row.get(name), metric) for row in rows.values()]
        table.append([metric["heading"] + unit, value({"mean": metric["chance"]}, metric), *cells])
    return table


def certificates_table(figures: Results) -> list[list[str]]:
    """A row for each part of a certificate, and a column for each posterior."""
    rows = figures["rows"]
    shown = {
        "risk, certified": ("train_risk", ".3f"),
        "KL, nats": ("kl", ".1f"),
        "union, nats": ("union", ".1f"),
        "Monte-Carlo slack": ("monte_carlo_slack", ".3f"),
        "bound": ("total", ".3f"),
        "bound by McDiarmid": ("mcdiarmid", ".3f"),
        "without Monte Carlo: no bound": ("without_monte_carlo", ".3f"),
        "risk, unseen": ("test_risk", ".3f"),
        "mean weights, certified": ("train_mean_weights", ".3f"),
        "mean weights, unseen": ("test_mean_weights", ".3f"),
    }
    first = next(iter(rows.values()))
    table = [["", *rows]]
    for heading, (key, form) in shown.items():
        if key in first:
            table.append([heading, *(f"{row[key]:{form}}" for row in rows.values())])
    if "classifier" in first:
        for heading, key in (("AVG-2", "avg2"), ("top-1", "top1"), ("top-5", "top5")):
            for pairs, which in (("all certified pairs", "mu"), ("five a class", "mu-5")):
                cells = (f"{100 * row['classifier'][which][key]:.1f}" for row in rows.values())
                table.append([f"{heading} of {pairs}, %", *cells])
    chosen = {name: ", ".join(rule for rule, best in figures["selected"].items() if best == name) for name in rows}
    return [*table, ["selected by", *chosen.values()]]


def cell(figure: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """A number with its standard deviation, as tables show the metric."""
    if figure is None or figure["mean"] is None:
        return "-"
    factor, form = _scale(metric)
    spread = "" if figure["std"] is None else f" ± {factor * figure['std']:{form}}"
    return f"{factor * figure['mean']:{form}}{spread}"


def value(figure: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """A number without its spread."""
    if figure is None or figure["mean"] is None:
        return "-"
    factor, form = _scale(metric)
    return f"{factor * figure['mean']:{form}}"


def spread(figure: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """The interval of a number where it has one, otherwise its standard deviation; empty where there is none."""
    factor, form = _scale(metric)
    if figure is None or figure["mean"] is None:
        return ""
    if figure.get("interval") is not None:
        low, high = (f"{factor * end:{form}}" for end in figure["interval"])
        return f"{low} to {high}" if low.startswith("-") else f"{low}–{high}"  # noqa: RUF001
    return "" if figure.get("std") is None else f"±{NO_BREAK}{factor * figure['std']:{form}}"


def joined(figure: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """A number with its interval in brackets, or with its standard deviation."""
    number, beside = value(figure, metric), spread(figure, metric)
    return f"{number} {beside}" if beside.startswith("±") else f"{number} ({beside})" if beside else number


def unbroken(text: str) -> str:
    """A sentence whose numbers stay on one line with their unit, and with the other end of their interval."""
    return BREAKS.sub(NO_BREAK, text)


def _scale(metric: Mapping[str, Any]) -> tuple[int, str]:
    return (100, ".1f") if metric["percent"] else (1, ".3f")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _axes(search: Results) -> str:
    listed = {name: ", ".join(f"{factor:g}" for factor in search[name]) for name in ("weights", "rates")}
    return f"weight x {listed['weights']}" + (f"; rate x {listed['rates']}" if len(search["rates"]) > 1 else "")


def _factors(trial: Results) -> str:
    return f"weight x {trial['weight']:g}" + (f", rate x {trial['rate']:g}" if trial["rate"] != 1 else "")
