"""The table of a comparison, for people: the same cells in Markdown and in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]  # of a comparison, as plain content


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
    percent = [metric["heading"] for metric in metrics if metric["percent"]]
    unit = "" if not percent else ", in %" if len(percent) == len(metrics) else f", in % for {', '.join(percent)}"
    told = [
        f"Mean ± standard deviation over seeds {', '.join(map(str, results['seeds']))}{unit}.",
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


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table as Markdown; the first row is its heading."""
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]]) + "\n"


def cell(figure: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    """A number with its spread, as tables show the metric."""
    if figure is None or figure["mean"] is None:
        return "-"
    factor, form = (100, ".1f") if metric["percent"] else (1, ".3f")
    spread = "" if figure["std"] is None else f" ± {factor * figure['std']:{form}}"
    return f"{factor * figure['mean']:{form}}{spread}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _axes(search: Results) -> str:
    listed = {name: ", ".join(f"{factor:g}" for factor in search[name]) for name in ("weights", "rates")}
    return f"weight x {listed['weights']}" + (f"; rate x {listed['rates']}" if len(search["rates"]) > 1 else "")


def _factors(trial: Results) -> str:
    return f"weight x {trial['weight']:g}" + (f", rate x {trial['rate']:g}" if trial["rate"] != 1 else "")
