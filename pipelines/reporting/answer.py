"""The head of the page: the verdicts, and one narrow table of every evaluation."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import leaves, to_plain
from pipelines.reporting import artefacts
from pipelines.reporting.table import spread, value
from pipelines.schemas import evaluate

MOST = 5  # columns of numbers: what 400 pixels hold
USUAL = "10"  # the count of a curve that comes first
PROBES = ("probe", "knn")  # metrics that are shown beside each other; of other evaluations, the first
BALANCED = "probe.balanced"  # in place of the probe where classes differ much in size
RECALL = re.compile(r"(.+)\.to_teacher\.R@(\d+)")
SCRATCH = "scratch, all labels"  # the table's name of the network that the curves call scratch
OPENING = re.compile(r"Gain\b|No gain\b|Not enough\b|No verdict\b")  # of the verdict on a student
FEW = (
    "n labels a class: test accuracy after learning from n labelled pairs of each class. A frozen network has a linear "
    "probe; fine-tuned networks and scratch are trained as a whole."
)
PROBE = "linear probe, kNN: test accuracy of the frozen embedding, fitted on all training labels."
OWN_PAIR = (
    "R@{k}: share of test pairs whose own pair in the teacher's modality is among the {k} nearest, through a linear "
    "map that is fitted on the training pairs."
)

Row = tuple[str, str]  # a network, and its use, such as fine-tuned; the use may be empty


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation."""

    name: str  # short, and different from those of others
    figures: Mapping[str, Any]  # of report.json
    inputs: Mapping[str, str]  # digests by config key
    config: evaluate.Config


@dataclass(frozen=True)
class Column:
    """A metric at the head of the page."""

    heading: str
    meaning: str  # a sentence
    percent: bool
    chance: float | None
    cells: Mapping[Row, Mapping[str, Any]]

    @property
    def metric(self) -> dict[str, Any]:
        """How tables show it."""
        return {"percent": self.percent}

    @property
    def plain_chance(self) -> str:
        """The chance level as text."""
        return value({"mean": self.chance}, self.metric)


@dataclass(frozen=True)
class Line:
    """A row of the table; each cell is a number and its spread, as text."""

    network: str
    use: str
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Block:
    """The rows of an evaluation."""

    name: str
    lines: Sequence[Line]
    chance: Sequence[str]


@dataclass(frozen=True)
class MainTable:
    """The columns that some evaluations have in common, and their rows."""

    headings: Sequence[str]
    units: Sequence[str]  # of the columns where they differ, otherwise empty
    blocks: Sequence[Block]
    caption: str
    meanings: Sequence[str]  # of the columns


@dataclass(frozen=True)
class Verdict:
    """An evaluation's sentences on a student."""

    head: str  # whether there is a gain
    figures: str  # what that rests on; may be empty
    rest: str  # further sentences


@dataclass(frozen=True)
class Answer:
    """The head of the page."""

    verdicts: Mapping[str, Sequence[Verdict]]  # by evaluation; evaluations of earlier versions have none
    warnings: Sequence[str]  # why evaluations cannot be compared
    tables: Sequence[MainTable]  # one of all evaluations; if they have no column in common, one of each


def answer_of(runs: Sequence[Evaluated]) -> Answer:
    """The verdicts of some evaluations, and their main figures."""
    verdicts = {run.name: verdicts_of(run.figures["verdict"]) for run in runs if run.figures.get("verdict")}
    tables = [found for found in [_table(runs)] if found]
    if len(runs) > 1 and not tables:
        told = ["These evaluations have no metric in common, so no table compares them."]
        return Answer(verdicts, told, [found for run in runs if (found := _table([run]))])
    has_labels = any(FEW in table.meanings for table in tables)
    return Answer(verdicts, [*_differences(runs, has_labels=has_labels)], tables)


def plain_table(table: MainTable) -> str:
    """The rows of a single evaluation in columns of text, without spreads."""
    (block,) = table.blocks
    lines = [(f"{line.network}, {line.use}" if line.use else line.network, *(number for number, _ in line.cells))
             for line in block.lines]  # fmt: skip
    rows = [("", *table.headings), *lines, ("chance", *block.chance)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def verdicts_of(sentences: Sequence[str]) -> list[Verdict]:
    """The verdict on each student, which begins with whether there is a gain."""
    parts: list[list[str]] = []
    for sentence in sentences:
        if not parts or OPENING.match(sentence):
            parts.append([])
        parts[-1].append(sentence)
    cut = ((*first.partition(". "), " ".join(rest)) for first, *rest in parts)
    return [Verdict(head + dot.strip(), figures, rest) for head, dot, figures, rest in cut]


def _table(runs: Sequence[Evaluated]) -> MainTable | None:
    """The columns that all runs have; None where there are none."""
    groups = [groups_of(run.figures, metrics_of(run.config)) for run in runs]
    by_heading = [{column.heading: column for group in each for column in group} for each in groups]
    first, *others = by_heading or [{}]
    shared = [heading for heading in first if all(heading in other for other in others)]
    if not shared:
        return None
    chosen = _choose([[column for column in group if column.heading in shared] for group in groups[0]])
    columns = [[one[column.heading] for column in chosen] for one in by_heading]
    blocks = [
        Block(run.name, [*_lines(own, run.figures)], [column.plain_chance for column in own])
        for run, own in zip(runs, columns, strict=True)
    ]
    is_mixed = any(column.percent != chosen[0].percent for column in chosen)
    return MainTable(
        headings=[column.heading for column in chosen],
        units=["in %" if is_mixed and column.percent else "" for column in chosen],
        blocks=blocks,
        caption=_caption([column for own in columns for column in own], runs),
        meanings=[*dict.fromkeys(column.meaning for column in chosen if column.meaning)],
    )


def groups_of(figures: artefacts.Figures, evaluations: Mapping[str, Sequence[str]]) -> list[list[Column]]:
    """The columns that may be shown: few labels, then each evaluation; of each, the most important first.

    They have a chance level, unless none has.

    Args:
        figures: of an evaluation's report.json.
        evaluations: the names of the metrics of each evaluation.
    """
    curves = {curve.title: curve for curve in artefacts.curves(figures)}
    is_uneven = artefacts.BALANCED in curves
    few = curves.get(artefacts.BALANCED if is_uneven else artefacts.FEW_LABELS)
    groups = [_of_curve(few, is_few=True)] if few else []
    by_heading = {curve.heading: curve for curve in curves.values()}
    for names in _by_evaluation(figures, evaluations).values():
        points = [figures["metrics"][name]["point"] for name in names if "point" in figures["metrics"][name]]
        plain = [name for name in names if "point" not in figures["metrics"][name]]
        if points and (curve := by_heading.pop(points[0]["heading"], None)):
            groups.append(_of_curve(curve))
        if plain:
            groups.append(_of_metrics(plain, figures, is_uneven=is_uneven))
    known = [[column for column in group if column.chance is not None] for group in groups]
    return [group for group in (known if any(known) else groups) if group]


def _by_evaluation(figures: artefacts.Figures, evaluations: Mapping[str, Sequence[str]]) -> dict[str | None, list[str]]:
    """The measured metrics of each evaluation.

    One that none declares, such as a recall in the space of an objective, is of the evaluation of the metric before it.
    """
    owners = {name: key for key, names in evaluations.items() for name in names}
    found, owner = dict[str | None, list[str]](), None
    for name in figures["metrics"]:
        owner = owners.get(name, owner)
        if any(name in row for row in figures["table"].values()):
            found.setdefault(owner, []).append(name)
    return found


def metrics_of(config: evaluate.Config) -> dict[str, list[str]]:
    """The names of the metrics of each evaluation, by its key in the config."""
    return {key: [metric.name for metric in each.metrics()] for key, each in config.evaluations().items()}


def _of_curve(curve: artefacts.Curve, *, is_few: bool = False) -> list[Column]:
    """The usual or the first place, then the last."""
    places = [USUAL if USUAL in curve.places else curve.places[0], curve.places[-1]]
    is_plural = any(word.endswith("s") for word in curve.by.split())
    found = []
    for place in dict.fromkeys(places):
        heading = f"{place} {curve.by}" if is_plural else f"{curve.by} {place}"
        if is_few:
            heading = {"1": "1 label a class", "all": "all labels"}.get(place, heading)
            heading += ", balanced" * (curve.title == artefacts.BALANCED)
        else:
            heading = f"{curve.heading}, {heading}"
        cells = {(line.network, line.kind): line.points[place] for line in curve.lines if place in line.points}
        found.append(Column(heading, FEW if is_few else "", curve.percent, curve.chance.get(place), cells))
    return found


def _of_metrics(names: Sequence[str], figures: artefacts.Figures, *, is_uneven: bool) -> list[Column]:
    """Of metrics of an evaluation: probe and kNN, the recall of a network's own pair, or otherwise the first."""
    probes = [BALANCED if is_uneven and name == "probe" and BALANCED in names else name for name in PROBES]
    meaning = PROBE + " Balanced: the mean of the classes' accuracies." * is_uneven
    found = [_of_metric(name, figures, meaning=meaning) for name in probes if name in names]
    recalls = {name: (recall[1] != "map", recall[2] != "5") for name in names if (recall := RECALL.fullmatch(name))}
    if recalls:
        name = min(recalls, key=lambda name: recalls[name])  # the linear map's, which every network has
        k = name.rpartition("@")[2]
        meaning = OWN_PAIR.format(k=k) if name.startswith("map.") else ""
        found.append(_of_metric(name, figures, heading=f"R@{k}" if meaning else None, meaning=meaning))
    known = [name for name in names if figures["metrics"][name]["chance"] is not None]
    return found or [_of_metric((known or names)[0], figures)]


def _of_metric(name: str, figures: artefacts.Figures, *, heading: str | None = None, meaning: str = "") -> Column:
    metric = figures["metrics"][name]
    cells = {(plain_name(who), ""): row[name] for who, row in figures["table"].items() if name in row}
    return Column(heading or metric["heading"], meaning, metric["percent"], metric["chance"], cells)


def _choose(groups: Sequence[Sequence[Column]]) -> list[Column]:
    """Up to `MOST` columns in the order of the groups: the first of each, then the second of each."""
    rounds = range(max(map(len, groups)))
    taken = [(number, turn) for turn in rounds for number, group in enumerate(groups) if turn < len(group)][:MOST]
    return [groups[number][turn] for number, turn in sorted(taken)]


def _lines(columns: Sequence[Column], figures: artefacts.Figures) -> Iterator[Line]:
    """A row for each network and use, in the order of the report's table; a frozen network is the network itself."""
    rows = dict.fromkeys(row for column in columns for row in column.cells)
    for network in dict.fromkeys([*map(plain_name, figures["table"]), *(network for network, _ in rows)]):
        uses: dict[str, list[Row]] = {}
        for row in rows:
            if row[0] == network:
                uses.setdefault("" if row[1] == "frozen" else row[1], []).append(row)
        for use, same in uses.items():
            shown = "frozen" if (network, "frozen") in same else use
            yield Line(network, shown, [_cell(column, same) for column in columns])


def plain_name(who: str) -> str:
    """The name of a row of the report's table as the curves have it."""
    return "scratch" if who == SCRATCH else who


def _cell(column: Column, rows: Sequence[Row]) -> tuple[str, str]:
    figure = next((column.cells[row] for row in rows if row in column.cells), None)
    return value(figure, column.metric), spread(figure, column.metric)


def _caption(columns: Sequence[Column], runs: Sequence[Evaluated]) -> str:
    """The unit and the kind of spread."""
    figures = [figure for column in columns for figure in column.cells.values()]
    seeds = [*dict.fromkeys(run.figures["seeds"] for run in runs)]
    over = "One seed" if seeds == [1] else f"Mean over {f'{seeds[0]} ' if len(seeds) == 1 else ''}seeds"
    spreads = []
    if any(figure.get("interval") is not None for figure in figures):
        spreads.append("the 95 % interval")
    if any(figure.get("std") is not None and figure.get("interval") is None for figure in figures):
        spreads.append("± standard deviation")
    small = f"; in small print {' or '.join(spreads)}" if spreads else ""
    unit = ", in %" * all(column.percent for column in columns)
    return f"{over}{unit}{small}."


def _differences(runs: Sequence[Evaluated], *, has_labels: bool) -> Iterator[str]:
    """A sentence for each reason why figures of several evaluations cannot be compared."""
    judged, learnt = (_shared(runs, key, count) for key, count in ((_judged, "test_pairs"), (_learnt, "train_pairs")))
    if len(judged) > 1:
        yield (
            f"Not comparable: these evaluations were judged on different test pairs ({'; '.join(judged)}), so a "
            "difference between them need not come from the networks."
        )
    elif len(learnt) > 1:
        yield (
            "Compare with care: the test pairs are the same, but probes, neighbours and labels come from different "
            f"training pairs ({'; '.join(learnt)})."
        )
    settings = [leaves({"few_labels": to_plain(run.config.few_labels)}) for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each)
    changed = [key for key in keys if len({each.get(key) for each in settings}) > 1 and key != "few_labels.labels"]
    if has_labels and changed:
        yield f"Compare with care: training with few labels had different settings ({', '.join(changed)})."


def _judged(run: Evaluated) -> Hashable:
    """What tells the test pairs of an evaluation."""
    part = run.inputs.get("data.test") or (_learnt(run), repr(run.config.data.held_out))
    return part, run.figures["test_pairs"]  # of a part, pairs may be left out that lack a view


def _learnt(run: Evaluated) -> Hashable:
    """What tells the training pairs of an evaluation."""
    return run.inputs.get("data.train")


def _shared(runs: Sequence[Evaluated], key: Callable[[Evaluated], Hashable], count: str) -> list[str]:
    """The names of the runs of each data set, with the number of its pairs."""
    found = dict[Hashable, list[Evaluated]]()
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return [f"{', '.join(run.name for run in same)}: {same[0].figures[count]}" for same in found.values()]
