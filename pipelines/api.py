"""Pipelines from Python: `run_pipeline` runs one, and `Run` is what it made."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipelines.config import ConfigError, load
from pipelines.config.errors import FinishedError, RunError, SharedError
from pipelines.registry import TOOLS, find_pipeline
from pipelines.runs import distributed
from pipelines.runs.console import say
from pipelines.runs.folder import METRICS, REPORT, RUN, environment, read_record, read_report
from pipelines.runs.lock import release_all

if TYPE_CHECKING:
    import torch

    from crossmodal.models import Model

INTERRUPTED = 130  # exit code of a command that SIGINT stopped
PAGE = "report.html"
FIRST = ("steps", "last.loss", "seconds", "pairs")  # metrics of which a run shows some in one line, if it has them


def run_pipeline(name: str, config: str | Path | Mapping[str, Any], *overrides: str) -> "Run":
    """Runs a pipeline, as `crossmodal NAME CONFIG key=value ...` does; a finished run is opened, not repeated.

    News goes to the logger `crossmodal`, and a progress bar to a terminal or a notebook. An interrupted run continues
    with the same call.

    Args:
        name: a pipeline of `crossmodal list pipelines`, such as "transfer".
        config: path of the YAML file, or its content as a mapping.
        overrides: settings that replace those of the config: "train.lr=1e-3" sets a value, "~train.ema" removes one.

    Raises:
        ConfigError: the name, the config or an override is wrong; nothing was written.
        RunError: the run cannot continue, or a signal stopped it.
        FinishedError: it was a trial, such as `trial=dry_run`, and ended well.
        KeyboardInterrupt: SIGINT stopped it; a training wrote a checkpoint.
    """
    if name in TOOLS:
        raise ConfigError([f"{name!r} is a command without a config; in Python use crossmodal.load and its Model"])
    pipeline = find_pipeline(name)
    given = Path(config) if isinstance(config, str | Path) else config
    try:
        checked = execute(pipeline, given, overrides)
        if getattr(checked, "trial", None):
            raise FinishedError(f"{checked.output}: the trial ended well; it made no run")
        return Run(checked.output)
    except SystemExit as stopped:
        if stopped.code == INTERRUPTED:
            raise KeyboardInterrupt from stopped
        raise RunError(f"{name}: a signal stopped the run; the same call continues it") from stopped
    except SharedError:
        distributed.part()
        raise
    except Exception as error:
        distributed.tell(f"{type(error).__name__}: {error}")
        raise
    finally:
        release_all()


def execute(pipeline: ModuleType, config: Path | Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """Checks a config on every process of the launch and runs its pipeline; gives the checked config.

    Raises:
        SystemExit: a signal stopped the run on all processes.
    """
    checked = distributed.together(lambda: load(pipeline.Config, config, overrides))
    try:
        pipeline.run(checked, config if isinstance(config, Path) else Path("config"))
    except FinishedError as finished:
        say(str(finished))
    except SystemExit:
        distributed.part()
        raise
    distributed.part()
    return checked


class Run:
    """A finished run.

    Args:
        folder: the folder of a run of any pipeline; of the pipeline `run`, or of several runs, the folder above them.

    Raises:
        RunError: the folder holds no run, or one that is not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if (self.folder / REPORT).is_file():
            return
        begun = [file.parent for pattern in (RUN, f"*/{RUN}") for file in sorted(self.folder.glob(pattern))]
        if unfinished := [each for each in begun if not (each / REPORT).is_file()]:
            raise RunError(f"{unfinished[0]} holds a run that is not finished; the call or command that began it "
                           "continues it")  # fmt: skip
        if not self.stages:
            raise RunError(f"{folder} holds no run; give the output folder of a pipeline")

    @property
    def pipeline(self) -> str:
        """The name of its pipeline."""
        return str(self._report.get("pipeline", "run"))

    @cached_property
    def stages(self) -> dict[str, "Run"]:
        """The finished runs in folders of this one, in the order in which they finished."""
        runs = [Run(path.parent) for path in self.folder.glob(f"*/{REPORT}")]
        return {run.folder.name: run for run in sorted(runs, key=lambda run: run._report["environment"]["written"])}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What it measured, from `report.json`; of the pipeline `run`, by stage."""
        if not self._report:
            return {name: stage.metrics for name, stage in self.stages.items()}
        return dict(self._report["figures"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The values of its config that decide the results, defaults included; of the pipeline `run`, by stage."""
        if not self._report:
            return {name: stage.config for name, stage in self.stages.items()}
        return dict(read_record(self.folder / RUN)["config"])

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of a training's log: the losses by step; empty if the pipeline has no log."""
        path = self.folder / METRICS
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def model(self, *, device: "str | torch.device | None" = None) -> "Model":
        """The trained encoder; see `crossmodal.load`.

        Raises:
            ExportError: the run trained none, or several; the message names them.
        """
        import crossmodal

        return crossmodal.load(self.folder, device=device)

    def report(self) -> "Report":
        """The HTML page of the run: the one that a pipeline wrote, or a new one in memory.

        Raises:
            ConfigError: a run of an earlier version lacks what the page shows.
        """
        pages = sorted(page for pattern in (PAGE, f"*/{PAGE}") for page in self.folder.glob(pattern))
        if pages:
            return Report(pages[0].read_text(encoding="utf-8"), pages[0])
        from pipelines.reporting.page import render
        from pipelines.reporting.sections import describe_answer, describe_run

        folders = [run.folder for run in ([self] if self._report else self.stages.values())]
        sections = [describe_run(folder, "tsne") for folder in folders]
        return Report(render(self.folder.name, describe_answer(folders), sections, environment()))

    @cached_property
    def _report(self) -> dict[str, Any]:
        return read_report(self.folder)

    @property
    def _main(self) -> dict[str, str]:
        """Some metrics as text: the verdict of an evaluation, or up to four numbers."""
        if not self._report:
            return {name: stage.pipeline for name, stage in self.stages.items()}
        if verdict := self.metrics.get("verdict"):
            return {"verdict": str(verdict[0]).partition(". ")[0]}
        numbers = _numbers(self.metrics)
        names = [name for name in FIRST if name in numbers] or [*numbers][:4]
        return {name.removeprefix("last."): f"{numbers[name]:.4g}" for name in names}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {text}" for name, text in self._main.items())
        return f"Run({str(self.folder)!r}: {self.pipeline}{'; ' * bool(shown)}{shown})"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
                       for name, text in self._main.items())  # fmt: skip
        head = f"<p><b>{html.escape(self.pipeline)}</b> <code>{html.escape(str(self.folder))}</code></p>"
        return f"{head}<table>{rows}</table>"


@dataclass(frozen=True)
class Report:
    """An HTML page, which a notebook shows."""

    html: str
    path: Path | None = None  # its file, if a pipeline wrote one

    def save(self, path: str | Path) -> Path:
        """Writes the page into a file; gives its path.

        Raises:
            WriteError: the file cannot be written.
        """
        from crossmodal.checkpoint import write

        write(Path(path), self.html)
        return Path(path)

    def __repr__(self) -> str:
        return f"Report({'in memory' if self.path is None else str(self.path)}, {len(self.html) / 1e6:.1f} MB)"

    def _repr_html_(self) -> str:
        page = html.escape(self.html)  # in a frame, because its style is for a whole page
        return f'<iframe srcdoc="{page}" width="100%" height="800" style="border: 0"></iframe>'


def _numbers(values: Mapping[str, Any], key: str = "") -> dict[str, float]:
    """The numbers of nested mappings, by dotted key."""
    found: dict[str, float] = {}
    for name, value in values.items():
        dotted = f"{key}{name}"
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{dotted}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[dotted] = value
    return found
