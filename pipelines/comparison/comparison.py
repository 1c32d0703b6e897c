"""The steps of a comparison: check, search, choose, train, and only then open the test set."""

import json
import statistics
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from crossmodal.checkpoint import write
from crossmodal.evaluation import Metric
from crossmodal.objectives import Objective
from pipelines.building.data import open_parts
from pipelines.building.transfer import Components, build_parts
from pipelines.config import ConfigError, to_plain, within
from pipelines.config.errors import DivergedError, RunError
from pipelines.registry import find_pipeline
from pipelines.reporting.table import caption_of, markdown, rows_of
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.runs.folder import RunFolder, is_main, read_report
from pipelines.schemas import compare, evaluate, transfer
from pipelines.schemas.common import PrepareConfig
from pipelines.schemas.compare import HEADS, Trial

BASELINES = ("teacher", "scratch", "random weights")
DIVERGED = "diverged.txt"  # in the folder of a training: why it is not repeated
Figures = dict[str, Any]  # the JSON content of a report


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    tried: dict[Trial, Figures | None]  # metrics of each trial's training; None: diverged
    scores: dict[Trial, float]  # of the other trials, on the held-out pairs
    chosen: Trial | None  # None: every trial diverged
    trained: dict[int, Figures | None]  # metrics of the trainings by seed; None: diverged


@dataclass(frozen=True)
class Comparison:
    """One comparison; every training and evaluation in it is a run of its own, continued or reused."""

    config: compare.Config
    path: Path  # of the config file
    prepared: set[str] = field(default_factory=set)  # rows whose objectives need a preparation; set by `_check`

    def run(self) -> None:
        """Writes table.md, results.json, report.json and an HTML page."""
        run = RunFolder.open("compare", self.config, find_pipeline("compare").inputs)
        if (run.before is not None and not run.is_same) or not run.is_done():
            self._check()
            run = self._open(run)
            results = self._compare()
            if is_main():
                table = markdown(rows_of(results))
                write(run.path / "results.json", json.dumps(results, indent=1) + "\n")
                write(run.path / "table.md", f"{table}\n{caption_of(results)}\n")
                say(f"{run.path / 'table.md'}:\n{table}")
            run.finish({"figures": results})
        distributed.wait()
        self._run_stage("report", self.config.page())

    def _check(self) -> None:
        """Builds every row's training once on all training pairs, and once as a trial of its search.

        Raises:
            ConfigError: names every problem of every row.
        """
        problems: list[str] = []
        for name in self.config.objectives:
            try:
                with within(f"row {name}"):
                    parts = build_parts(self.config.final(name, Trial(), self.config.seeds[0]))
                    self._check_metrics(parts)
                self._check_trial(name)
                if parts.preparation is not None:
                    self.prepared.add(name)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        self._check_label_counts()

    def _check_label_counts(self) -> None:
        """Refuses a few-label metric with more labels than a class has; an evaluation would leave it out."""
        search, data = self.config.search, self.config.transfer.data
        few = self.config.evaluate.few_labels
        for place, metric in enumerate(self.config.metrics):
            _, count = few.columns().get(metric, ("", None)) if few else ("", None)
            if count is None:
                continue
            held_out = search.held_out if search and place == 0 else None  # the first metric scores the trials
            labels = open_parts(data, held_out, "search.held_out")[0].manifest.labels
            name, least = min(((name, pairs) for name, pairs in labels.items() if pairs), key=lambda item: item[1])
            if least < count:
                pairs = "training pairs that are not held out" if held_out else "training pairs"
                raise ConfigError([f"metrics.{place} is {metric}, but class {name!r} has only {least} {pairs}"])

    def _check_trial(self, name: str) -> None:
        """Builds one trial of a row, if it has any; the others differ only in their factors."""
        search, shared = self.config.search, self.config.transfer
        for trial in self.config.trials(name)[:1]:
            assert search is not None
            learnt, _ = open_parts(shared.data, search.held_out, "search.held_out")  # the same for every row
            size = shared.train.batch_size
            if size > len(learnt):
                raise ConfigError([f"search.held_out.share: {search.held_out.share} leaves {len(learnt)} pairs to "
                                   f"train on, and transfer.train.batch_size is {size}"])  # fmt: skip
            with within(f"search of row {name}"):
                build_parts(self.config.trial(name, trial))

    def _check_metrics(self, parts: Components) -> None:
        for place, name in enumerate(self.config.metrics):
            needs = self.columns[name].needs
            spaces = [
                key for key, term in parts.module.terms.items() if type(term.objective).project is not Objective.project
            ]
            if name.startswith(HEADS) and len(spaces) > 1:
                raise ConfigError([f"metrics.{place} is {name}, but several objectives have a space: "
                                   f"{', '.join(spaces)}; name one of them in place of heads"])  # fmt: skip
            if "labels" in needs and not parts.shards.manifest.classes:
                raise ConfigError([f"metrics.{place} is {name}, which needs labels, and the pairs have none"])
            if place == 0 and "classifier" in needs and not parts.classes:
                problem = f"metrics.0 is {name}, and no objective here trains a classifier; add cross_entropy"
                raise ConfigError([problem])

    @cached_property
    def columns(self) -> dict[str, Metric]:
        """All metrics that the evaluation can measure."""
        return self.config.columns()

    @property
    def sign(self) -> int:
        """1 if higher is better for the first metric, else -1."""
        return 1 if self.columns[self.config.metrics[0]].higher_is_better else -1

    def _open(self, run: RunFolder) -> RunFolder:
        if run.before is not None and not run.is_same:
            say(f"{run.path}: config or inputs changed; trainings that are still part of it are reused")
            run = run.renew()
        distributed.wait()
        run.begin()
        return run

    def _compare(self) -> Figures:
        """Searches, chooses, trains and tests; reads nothing of the test set before all choices are made."""
        tried = {name: self._try(name) for name in self.config.objectives}
        scores = self._score(tried)
        chosen = {name: self._choose(trials, scores[name]) for name, trials in tried.items()}
        trained = {name: self._train(name, trial) for name, trial in chosen.items()}
        judged = self._judge(trained)
        rows = {name: Row(tried[name], scores[name], chosen[name], trained[name]) for name in tried}
        return self._results(rows, judged)

    def _try(self, name: str) -> dict[Trial, Figures | None]:
        """Trains the trials of a row's search."""
        trials, tuned = self.config.trials(name), self.config.search is not None and bool(self.config.objectives[name])
        if tuned and not trials and self.config.is_blind(name):
            say(f"{name}: not tuned: with no other objective, adamw trains it alike at any weight")
        return {trial: self._transfer(name, self.config.trial(name, trial)) for trial in trials}

    def _train(self, name: str, trial: Trial | None) -> dict[int, Figures | None]:
        """Trains a row once per seed, to compare; None for every seed if all its trials diverged."""
        return {
            seed: None if trial is None else self._transfer(name, self.config.final(name, trial, seed))
            for seed in self.config.seeds
        }

    def _transfer(self, name: str, config: transfer.Config) -> Figures | None:
        """The metrics of one training of a row, which is run, continued or reused; None if it diverges."""
        if name not in self.prepared:
            config = replace(config, prepare=PrepareConfig())
        pipeline = find_pipeline("transfer")
        run = RunFolder.open("transfer", config, pipeline.inputs)
        run.make_room()
        marker = run.path / DIVERGED
        if run.is_same and distributed.from_main(marker.is_file):
            say(f"{run.path}: diverged before")
            return None
        try:
            pipeline.run(config, self.path)
        except DivergedError as error:
            say(f"{run.path}: diverged: {error}")
            if is_main():
                write(marker, f"{error}\n")
            return None
        distributed.wait()
        return distributed.from_main(lambda: read_report(run.path)["figures"])

    def _run_stage(self, name: str, config: Any) -> None:
        pipeline = find_pipeline(name)
        RunFolder.open(name, config, pipeline.inputs).make_room()
        pipeline.run(config, self.path)

    def _evaluate(self, config: evaluate.Config) -> Figures:
        """The metrics of an evaluation, which is run or reused."""
        self._run_stage("evaluate", config)
        distributed.wait()
        return distributed.from_main(lambda: read_report(config.output)["figures"])

    def _score(self, tried: dict[str, dict[Trial, Figures | None]]) -> dict[str, dict[Trial, float]]:
        """The first metric on the held-out pairs, of every trial that did not diverge."""
        alive = {name: [trial for trial, figures in trials.items() if figures] for name, trials in tried.items()}
        trials = [(name, trial) for name, some in alive.items() for trial in some]
        scores: dict[str, dict[Trial, float]] = {name: {} for name in tried}
        if not trials:
            return scores
        students = {f"{name}/{trial}": [self.config.trial(name, trial).output] for name, trial in trials}
        judged, metric = self._evaluate(self.config.judge_trials(students)), self.config.metrics[0]
        for name, trial in trials:
            if (figure := figure_of(judged, f"{name}/{trial}", metric)) is None:
                raise RunError(f"metrics.0 is {metric}, which was not measured for {name}; put another one first")
            scores[name][trial] = figure["mean"]
        return scores

    def _choose(self, tried: dict[Trial, Figures | None], scores: dict[Trial, float]) -> Trial | None:
        """The best trial; among equals, the one closest to the config."""
        if not tried:
            return Trial()
        return max(scores, key=lambda trial: (self.sign * scores[trial], -trial.departure), default=None)

    def _judge(self, trained: dict[str, dict[int, Figures | None]]) -> Figures:
        """The metrics of all students on the test set.

        Raises:
            RunError: every training diverged.
        """
        students = {name: self._folders(name, runs) for name, runs in trained.items() if any(runs.values())}
        if not students:
            raise RunError("every training diverged, so there is nothing to compare; lower transfer.train.lr")
        return self._evaluate(self.config.judge(students))

    def _folders(self, name: str, trained: dict[int, Figures | None]) -> list[str]:
        """The folders of the students that did not diverge."""
        return [self.config.final(name, Trial(), seed).output for seed, figures in trained.items() if figures]

    def _results(self, rows: dict[str, Row], judged: Figures) -> Figures:
        """All results as plain content, with the best row first."""
        metrics = self.config.metrics
        described = {name: self._describe(name, row, judged) for name, row in rows.items()}

        def place(name: str) -> tuple[bool, float]:
            figure = described[name]["figures"][metrics[0]]
            return figure is None, -self.sign * figure["mean"] if figure else 0.0

        return {
            "metrics": {name: self._column(name, judged) for name in metrics},
            "seeds": self.config.seeds,
            "search": None if self.config.search is None else to_plain(self.config.search),
            "shared": self._shared(rows, judged),
            "rows": {name: described[name] for name in sorted(described, key=place)},
            "baselines": {who: {name: figure_of(judged, who, name) for name in metrics} for who in BASELINES},
        }

    def _column(self, name: str, judged: Figures) -> Figures:
        """How the table shows a metric."""
        there = judged["metrics"]
        shown = there.get(name) or next((there[key] for key in there if _is_in_heads(key, name)), {"chance": None})
        metric = self.columns[name]
        return {"higher_is_better": metric.higher_is_better, "percent": metric.percent, **shown,
                "heading": metric.heading}  # fmt: skip

    def _describe(self, name: str, row: Row, judged: Figures) -> Figures:
        alive = [figures for figures in row.trained.values() if figures]
        phases = [phase for figures in alive for phase in (figures, figures.get("preparation")) if phase]
        paces = [figures["milliseconds_per_step"] for figures in alive]
        config = self.config.final(name, row.chosen or Trial(), self.config.seeds[0])
        return {
            "objectives": to_plain(config.objectives),
            "trials": [
                {"weight": trial.weight, "rate": trial.rate, "score": row.scores.get(trial), "diverged": not figures}
                for trial, figures in row.tried.items()
            ],
            "chosen": None if row.chosen is None else {"weight": row.chosen.weight, "rate": row.chosen.rate},
            "trained": len(alive),
            "diverged": len(row.trained) - len(alive),
            "figures": {metric: figure_of(judged, name, metric) for metric in self.config.metrics},
            "milliseconds_per_step": statistics.median(paces) if paces else None,
            "preparation_steps": alive[0]["preparation"]["steps"] if alive and name in self.prepared else None,
            "peak_memory_mb": max((phase["peak_memory_mb"] for phase in phases), default=None),
            "students": self._folders(name, row.trained),
        }

    def _shared(self, rows: dict[str, Row], judged: Figures) -> Figures:
        """The facts that all rows share, and the total time."""
        finals = [figures for row in rows.values() for figures in row.trained.values() if figures]
        trials = [figures for row in rows.values() for figures in row.tried.values() if figures]
        assert len({figures["steps"] for figures in finals}) == 1, "the budget is the same for every row"
        first = {key: finals[0][key] for key in ("steps", "pairs", "processes", "device")}
        searched = None
        if trials:
            searched = {"steps": trials[0]["steps"], "held_out_pairs": first["pairs"] - trials[0]["pairs"]}
        phases = [figures["preparation"] for figures in [*finals, *trials] if "preparation" in figures]
        seconds = sum(figures["seconds"] for figures in [*finals, *trials, *phases, judged])
        return {**first, "test_pairs": judged["test_pairs"], "search": searched, "seconds": round(seconds, 1)}


def figure_of(judged: Figures, who: str, metric: str) -> Figures | None:
    """The mean, standard deviation and runs of one metric of an evaluation; None if it was not measured.

    `who` is a student's name, teacher, random weights or scratch. An evaluation names scratch by the labels that it was
    trained on; the curves of few labels have one scratch, which is trained on those labels.
    """
    way, _, labels = metric.partition("@")
    if way in ("frozen", "fine-tuned"):
        curve = "scratch" if who == "scratch" else f"{who}, {way}"
        return judged["few_labels"].get(curve, {}).get(labels)
    rows = [row for name, row in judged["table"].items() if name == who or name.startswith(f"{who}, ")]
    if not rows:
        return None
    return rows[0].get(metric) or next((rows[0][name] for name in rows[0] if _is_in_heads(name, metric)), None)


def _is_in_heads(name: str, metric: str) -> bool:
    """True if `name` is the metric `heads.*` in the space of some objective."""
    return metric.startswith(HEADS) and name.endswith(f".{metric.removeprefix(HEADS)}") and not name.startswith("map.")
