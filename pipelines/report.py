"""Write an HTML page of finished runs that works offline: the answer first, then pictures, figures and configs."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.config import ConfigError
from pipelines.schemas.report import Config


def inputs(config: Config) -> Mapping[str, str]:
    """Digests of the reports of the runs."""
    from pipelines.runs.folder import REPORT, digest_of

    problems = [f"runs: {path} holds no finished run" for path in config.runs if not (Path(path) / REPORT).is_file()]
    if problems:
        raise ConfigError(problems)
    return {path: digest_of((Path(path) / REPORT).read_text(encoding="utf-8")) for path in config.runs}


def run(config: Config, path: Path) -> None:
    """Writes the page."""
    from crossmodal.checkpoint import write
    from pipelines.reporting.page import render
    from pipelines.reporting.sections import describe_answer, describe_run
    from pipelines.runs.console import say
    from pipelines.runs.folder import RunFolder, environment, is_main

    run = RunFolder.open("report", config, inputs)
    if run.is_done() or not is_main():
        return
    folders = [Path(folder) for folder in config.runs]
    answer = describe_answer(folders)
    sections = [describe_run(folder, config.map) for folder in folders]
    run.begin()
    page = run.path / "report.html"
    write(page, render(config.title, answer, sections, environment()))
    say(f"{page}: open it in a browser ({page.stat().st_size / 1e6:.1f} MB, no network needed)")
    run.finish({"figures": {"page": page.name}})
