"""The answer that an evaluation gives: whether a student is better than the same network without its training."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from crossmodal.metrics.intervals import LEAST, Estimate
from pipelines.evaluation.results import Table

USUAL = 10  # labels a class that the verdict is about, where they were measured


@dataclass(frozen=True)
class Setting:
    """The figures and facts that all verdicts of an evaluation rest on."""

    table: Table
    curves: Table
    balanced_curves: Table  # empty where classes are not uneven
    columns: Mapping[str, Mapping[str, Any]]  # the metrics, as tables show them
    modality: str  # of the students
    answer: str  # the teacher's modality
    test_pairs: int
    all_labels: float  # labelled training pairs per class
    uneven: bool  # whether some class has many more test pairs than another, so that balanced accuracy decides
    steps: int  # of training from scratch, at most
    grouped: bool  # whether test pairs name groups


def verdicts(setting: Setting, students: Mapping[str, int]) -> list[str]:
    """The sentences on each student, by the number of trainings of each name; then those on how they were measured."""
    every = {name: _Verdict(setting, name) for name in students}
    lines = [line for verdict in every.values() for line in verdict.lines()]
    notes = [note for name, verdict in every.items() for note in verdict.notes(students[name])]
    return [*lines, *dict.fromkeys(notes)]


@dataclass(frozen=True)
class _Verdict:
    setting: Setting
    name: str

    @cached_property
    def _headline(self) -> "_Headline | None":
        return self._with_labels() or self._with_metric()

    def lines(self) -> Iterator[str]:
        if self._headline is not None:
            yield self._headline.sentence()
            yield from self._efficiency(self._headline)
            yield from self._retrieval()

    def notes(self, trainings: int) -> Iterator[str]:
        if self._headline is None:
            return
        if self._headline.curves is not None and "scratch" in self._headline.curves.rows:
            yield f"Scratch was trained for {self.setting.steps} steps at most; more (few_labels.steps) may help it."
        yield self._conditions(self._headline, trainings)

    def _with_labels(self) -> "_Headline | None":
        """Accuracy with few labels; None if it was not measured."""
        balanced = self.setting.uneven
        curves = self.setting.balanced_curves if balanced else self.setting.curves
        if not (row := curves.rows.get(f"{self.name}, frozen")):
            return None
        place = str(USUAL) if str(USUAL) in row else next(iter(row))
        labels = "all labels" if place == "all" else f"{place} label{'s' * (place != '1')} a class"
        others = {who: curves.estimate(row, place) for who, row in
                  (("scratch", "scratch"), ("random weights", "random weights, frozen"))}  # fmt: skip
        mine = curves.estimate(f"{self.name}, frozen", place)
        assert mine is not None
        what = f"With {labels}, student {self.name} ({self.setting.modality}, frozen) has "
        form = _Form(100, "%", "points", 1)
        return _Headline(what, " balanced accuracy" * balanced, mine, _there(others), form, curves, place)

    def _with_metric(self) -> "_Headline | None":
        """The first metric that random weights have too; None if there is none."""
        table, baseline = self.setting.table, self.setting.table.rows.get("random weights", {})
        columns = self.setting.columns
        usual = "probe.balanced" if self.setting.uneven else "probe"
        for name in sorted(columns, key=lambda name: name != usual):
            mine, column = table.estimate(self.name, name), columns[name]
            if mine is None or name not in baseline or column["chance"] is None:
                continue
            scratch = [who for who, row in table.rows.items() if who.startswith("scratch") and name in row]
            others = {who: table.estimate(who, name) for who in (*scratch, "random weights")}
            form = _Form(100, "%", "points", 1) if column["percent"] else _Form(1, "", "", 3)
            what = f"Student {self.name} ({self.setting.modality}) has "
            return _Headline(what, f" {column['heading']}", mine, _there(others), form,
                             sign=1 if column["higher_is_better"] else -1)  # fmt: skip
        return None

    def _efficiency(self, headline: "_Headline") -> Iterator[str]:
        """The number of labels with which scratch is as good."""
        if headline.curves is None or "scratch" not in headline.curves.rows:
            return
        points = [(self.setting.all_labels if place == "all" else float(place), runs)
                  for place, runs in headline.curves.rows["scratch"].items()]  # fmt: skip
        curve = [(count, sum(runs.values) / len(runs.values)) for count, runs in points]
        needed = labels_to_reach(curve, headline.mine.mean)
        if needed is None:
            most = max(count for count, _ in curve)
            yield f"Scratch does not get there with {most:.0f} labels a class, the most that were measured."
        elif headline.place == "all" or needed > float(headline.place):
            yield f"It takes about {needed:.0f} labels a class for scratch to get there."
        if headline.place != "all" and "all" in headline.curves.rows["scratch"]:
            every = [f"{who} {100 * estimate.mean:.1f} %" for who, row in
                     (("frozen", f"{self.name}, frozen"), ("fine-tuned", f"{self.name}, fine-tuned"),
                      ("scratch", "scratch"))
                     if (estimate := headline.curves.estimate(row, "all")) is not None]  # fmt: skip
            yield f"With all labels, about {self.setting.all_labels:.0f} a class: {', '.join(every)}."

    def _retrieval(self) -> Iterator[str]:
        """How often the student finds the pair's other side."""
        names = [name for name in self.setting.columns if name.startswith("map.to_teacher.R@")]
        name = "map.to_teacher.R@5" if "map.to_teacher.R@5" in names else next(iter(names), "")
        estimate = self.setting.table.estimate(self.name, name)
        if estimate is not None:
            count, chance = name.rpartition("@")[2], self.setting.columns[name]["chance"]
            yield (f"It finds its own {self.setting.answer} partner among the first {count} of "
                   f"{self.setting.test_pairs} test pairs in {100 * estimate.mean:.1f} % of cases (chance "
                   f"{100 * chance:.1f} %).")  # fmt: skip

    def _conditions(self, headline: "_Headline", trainings: int) -> str:
        units = headline.mine.units
        if headline.mine.resampled is None:
            return f"The intervals are over {len(headline.mine.runs)} repetitions only, not over test pairs."
        count = self.setting.test_pairs
        over = f"{units} test groups" if self.setting.grouped else f"{count} of them, which name no groups"
        told = f"The intervals are for other test pairs ({over})"
        if trainings > 1:
            return f"{told} and other trainings ({trainings})."
        return f"{told}, not for other trainings, for there is one student; trainings=3 trains two more."


@dataclass(frozen=True)
class _Form:
    factor: float
    unit: str
    difference: str  # unit of differences
    digits: int

    def number(self, value: float, sign: str = "") -> str:
        return f"{self.factor * value:{sign}.{self.digits}f}"

    def span(self, estimate: Estimate, sign: str = "") -> str:
        interval = estimate.interval()
        if interval is None:
            return ""
        if self.unit and not sign:  # a share
            interval = max(0.0, interval[0]), min(1.0, interval[1])
        return " to ".join(self.number(end, sign) for end in interval)


@dataclass(frozen=True)
class _Headline:
    what: str
    kind: str  # of the number; may be empty
    mine: Estimate
    others: Mapping[str, Estimate]
    form: _Form
    curves: Table | None = None
    place: str = ""
    sign: int = 1

    def sentence(self) -> str:
        """The verdict, and the figures that it rests on."""
        form, span = self.form, self.form.span(self.mine)
        unit, difference = (f" {name}" if name else "" for name in (form.unit, form.difference))
        own = f"{form.number(self.mine.mean)}{unit}{self.kind}" + (f" (95 % interval {span})" if span else "")
        against = [
            f"{who} {form.number(other.mean)}{unit}: {form.number((less := self.mine - other).mean, '+')}{difference}"
            + (f" ({form.span(less, '+')})" if form.span(less) else "")
            for who, other in self.others.items()
        ]
        return f"{self.answer()} {self.what}{own}; {'; '.join(against)}."

    def answer(self) -> str:
        """Gain: better than every baseline, by more than chance explains."""
        spans = {who: (self.mine - other).interval() for who, other in self.others.items()}
        if not spans:
            return "No verdict, for nothing was measured to compare with."
        known = {who: sorted(self.sign * end for end in span) for who, span in spans.items() if span is not None}
        if len(known) < len(spans):
            return (f"Not enough test groups to say (at least {LEAST})."
                    if self.mine.resampled is not None else "Not enough repetitions to say.")  # fmt: skip
        beaten = [who for who, (low, _) in known.items() if low > 0]
        if len(beaten) == len(known):
            return f"Gain over {' and '.join(known)}."
        left = [who for who in known if who not in beaten]
        worse = [who for who in left if known[who][1] < 0]
        if worse:
            return f"No gain: worse than {' and '.join(worse)}."
        return f"No gain: not above {' and '.join(left)} by more than chance explains."


def labels_to_reach(curve: Sequence[tuple[float, float]], accuracy: float) -> float | None:
    """The number of labels at which a curve first reaches an accuracy, between its points linear in the logarithm.

    Args:
        curve: numbers of labels in increasing order, and the accuracy with each.
        accuracy: to be reached.

    Returns:
        The number; the first one where the curve begins above, None where it ends below.
    """
    before: tuple[float, float] | None = None
    for count, value in curve:
        if value >= accuracy:
            if before is None:
                return count
            share = (accuracy - before[1]) / (value - before[1])
            return math.exp(math.log(before[0]) + share * (math.log(count) - math.log(before[0])))
        before = count, value
    return None


def _there(others: Mapping[str, Estimate | None]) -> dict[str, Estimate]:
    return {who: estimate for who, estimate in others.items() if estimate is not None}
